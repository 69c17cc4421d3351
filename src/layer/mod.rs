//! Layers that can be compressed: which they are, what they cost, and why a weight is left alone.

mod cost;
mod filter;
mod find;
mod prepare;
mod rows;
mod shared;
mod table;
mod transposed;
mod weight;

pub use cost::{Cost, Extent, PRODUCTS, product_values, shapes};
pub use filter::Filter;
pub use find::find;
pub use prepare::{Prepared, prepare};
pub use rows::{Batch, Positions, Rows};
pub use weight::{LongSide, Weight};

use crate::ops::ConvAttributes;

/// A weight of the model and the node that uses it, or the first of the nodes that do.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Index of the node in the graph.
    pub node: usize,
    /// The node's name, or its first output where it has none.
    pub name: String,
    /// The node's operator.
    pub op_type: String,
    /// Name of the weight.
    pub weight: String,
    /// Shape of the weight as stored.
    pub shape: Vec<usize>,
    /// Elements of the weight.
    pub weight_params: u64,
    /// Elements of the bias that the node itself reads.
    pub bias_params: u64,
    /// What the node computes with the weight; absent when it is left alone.
    pub map: Option<LinearMap>,
    /// The later nodes that apply the same weight in the same way, and share its factors.
    pub others: Vec<Use>,
    /// Why the weight is left alone.
    pub skip: Option<String>,
}

/// A node that applies the weight of a layer whose first node is another one.
#[derive(Clone, Debug)]
pub struct Use {
    /// Index of the node in the graph.
    pub node: usize,
    /// The node's name, or its first output where it has none.
    pub name: String,
    /// What the node computes: W and bias are the layer's, padding and strides its own.
    pub map: LinearMap,
}

impl Layer {
    /// Every node that applies the weight, by its index in the graph, with its map; none where the
    /// weight is left alone.
    pub fn uses(&self) -> impl Iterator<Item = (usize, &LinearMap)> {
        let first = self.map.iter().map(|map| (self.node, map));
        first.chain(self.others.iter().filter(|_| self.map.is_some()).map(|u| (u.node, &u.map)))
    }

    /// The names of the nodes that apply the weight.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.others.iter().map(|u| u.name.as_str()))
    }
}

/// The linear map of a layer: for each group `y = W x + b` with W `[rows, columns]`, over positions.
#[derive(Clone, Debug)]
pub struct LinearMap {
    /// How W is stored and applied.
    pub form: Form,
    /// Groups; 1 but for grouped convolutions.
    pub groups: usize,
    /// Outputs of one group: for a transposed convolution its output channels times the kernel's
    /// extents.
    pub rows: usize,
    /// Inputs of one group: for a convolution its input channels times the kernel's extents, the
    /// kernel varying fastest.
    pub columns: usize,
    /// Name of the constant bias, where there is one.
    pub bias: Option<String>,
}

impl LinearMap {
    /// The largest rank of one group's W.
    #[must_use]
    pub fn full_rank(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// Extents of the kernel over a map's inputs; empty for matrix products and for transposed
    /// convolutions, whose inputs are single elements.
    #[must_use]
    pub fn kernel(&self) -> &[usize] {
        match &self.form {
            Form::Conv(attributes) => &attributes.kernel,
            _ => &[],
        }
    }

    /// Whether the map is that of a transposed convolution.
    #[must_use]
    pub fn is_transposed(&self) -> bool {
        matches!(self.form, Form::ConvTranspose { .. })
    }

    /// Elements of the kernel of a transposed convolution, over which its outputs are spread; 1 for
    /// other maps.
    #[must_use]
    pub fn spread(&self) -> usize {
        match &self.form {
            Form::ConvTranspose { attributes, .. } => attributes.kernel.iter().product(),
            _ => 1,
        }
    }

    /// Elements of the kernel; 1 for matrix products.
    #[must_use]
    pub fn kernel_len(&self) -> usize {
        self.kernel().iter().product()
    }

    /// Position of the data among the node's inputs.
    #[must_use]
    pub fn data_input(&self) -> usize {
        match self.form {
            Form::MatMulLeft | Form::GemmLeft { .. } | Form::Table => 1,
            _ => 0,
        }
    }

    /// Whether a bias of one number per output can follow the map, and nothing but a bias does:
    /// then the mean is kept exact, and the layer's output is what it is to yield.
    #[must_use]
    pub fn takes_bias(&self) -> bool {
        !matches!(
            self.form,
            Form::GemmLeft { .. }
                | Form::Gemm { free_bias: true, .. }
                | Form::ConvTranspose { .. }
                | Form::Table
        )
    }

    /// Whether the map's inputs are places in a table: x is 1 at one of them, and 0 elsewhere.
    #[must_use]
    pub fn is_table(&self) -> bool {
        matches!(self.form, Form::Table)
    }
}

/// How a layer's W is stored and applied.
#[derive(Clone, Debug)]
pub enum Form {
    /// Conv: weight `[groups * rows, columns / kernel, kernel..]`.
    Conv(ConvAttributes),
    /// ConvTranspose: weight `[groups * columns, rows / kernel, kernel..]`. W maps an element of the
    /// input to all that it adds to the output: output channels, the kernel varying fastest.
    ConvTranspose {
        /// Kernel, strides, dilations and padding.
        attributes: ConvAttributes,
        /// Elements added at the end of every axis of the output.
        output_padding: Vec<usize>,
    },
    /// Gemm with the weight on the right: `alpha * A' * B' + beta * C`.
    Gemm {
        /// Whether the data A is transposed.
        trans_a: bool,
        /// Whether the weight B is stored as `[rows, columns]`.
        trans_b: bool,
        /// Scale of the product.
        alpha: f32,
        /// Scale of C.
        beta: f32,
        /// Whether C is more than one constant per output, and stays as it is.
        free_bias: bool,
    },
    /// Gemm with the weight on the left.
    GemmLeft {
        /// Whether the weight A is stored as `[columns, rows]`.
        trans_a: bool,
        /// Whether the data B is transposed.
        trans_b: bool,
        /// Scale of the product.
        alpha: f32,
        /// Scale of C.
        beta: f32,
    },
    /// MatMul with the weight `[columns, rows]` on the right.
    MatMulRight,
    /// MatMul with the weight `[rows, columns]` on the left.
    MatMulLeft,
    /// Gather from a table `[columns, rows]`, such as one of word embeddings: x is 1 at the place that is
    /// looked up.
    Table,
}
