//! A convolution of known extents: forward and both gradients, in either float type. A transposed
//! convolution is the same problem seen from the other side.

use super::three;
use crate::error::OpError;
use crate::kernels::conv::{ConvShape, InputGradient, PackedConv, Spatial, WeightGradient, plain};
use crate::kernels::matmul::{filled, uninit};
use crate::kernels::{Clamp, Real};
use crate::ops::args::{bad_type, elements, floats, update};
use crate::ops::backward::zeros;
use crate::ops::layout::count;
use crate::ops::reduce::fold_row;
use crate::tensor::{Array, Element, Tensor};

/// The convolution that takes `x` to `y`.
pub(super) struct Problem {
    pub shape: ConvShape,
    /// `[samples, in_channels, spatial..]`
    pub x: Vec<usize>,
    /// `[samples, out_channels, spatial..]`
    pub y: Vec<usize>,
}

fn fault() -> OpError {
    OpError::shape("a convolution over tensors of unexpected shape")
}

/// The elements of a tensor that must have this shape.
fn shaped<'a, T: Element>(
    tensor: &'a Tensor,
    shape: &[usize],
) -> Result<std::borrow::Cow<'a, [T]>, OpError> {
    let array: &Array<T> = tensor.typed("an operand of a convolution")?;
    if array.shape() == shape { Ok(elements(array)) } else { Err(fault()) }
}

/// Calls a method for the float type of a tensor.
macro_rules! both {
    ($tensor:expr, $self:ident.$method:ident($($argument:expr),*)) => {
        match $tensor {
            Tensor::F32(_) => $self.$method::<f32>($($argument),*),
            Tensor::F64(_) => $self.$method::<f64>($($argument),*),
            other => Err(bad_type(other, "an operand of a convolution")),
        }
    };
}

impl Problem {
    pub fn extents(&self) -> [Spatial; 2] {
        [three(&self.x[2..], 1), three(&self.y[2..], 1)]
    }

    fn weight(&self) -> Vec<usize> {
        let axes = self.x.len() - 2;
        let lead = [self.shape.out_channels, self.shape.group_in()];
        lead.iter().chain(&self.shape.kernel[3 - axes..]).copied().collect()
    }

    /// Elements of one sample of `x` and of `y`, unless there are none.
    fn lengths(&self) -> Option<(usize, usize)> {
        let lengths = (self.x[1..].iter().product(), self.y[1..].iter().product());
        (lengths.0 > 0 && lengths.1 > 0).then_some(lengths)
    }

    /// Whether the packed kernels' idea of the output's extents is right: a transposed convolution
    /// may have an input so long that they would make more of it.
    pub fn packs(&self) -> bool {
        let [input, output] = self.extents();
        self.shape.output(input).is_ok_and(|extents| extents == output)
    }

    /// The convolution of `x` with `weight`, without a bias.
    pub fn forward(&self, weight: &Tensor, x: &Tensor) -> Result<Tensor, OpError> {
        let total = count(&self.y)?;
        match x {
            Tensor::F32(_) if self.packs() => {
                let (weight, x) = (shaped::<f32>(weight, &self.weight())?, shaped(x, &self.x)?);
                let packed = PackedConv::new(self.shape.clone(), &weight, &[]);
                let mut y = uninit(total);
                packed.run(&x, self.x[0], self.extents()[0], None, Clamp::NONE, &mut y)?;
                // SAFETY: the kernel writes every element.
                Tensor::from_vec(&self.y, unsafe { filled(y) })
            }
            _ => both!(x, self.plain_forward(weight, x)),
        }
    }

    fn plain_forward<T: Real + Element>(
        &self,
        weight: &Tensor,
        x: &Tensor,
    ) -> Result<Tensor, OpError> {
        let (weight, x) = (shaped::<T>(weight, &self.weight())?, shaped::<T>(x, &self.x)?);
        let mut y = vec![T::default(); count(&self.y)?];
        if let Some((from, to)) = self.lengths() {
            for (x, y) in x.chunks_exact(from).zip(y.chunks_exact_mut(to)) {
                plain::forward(&self.shape, self.extents(), &weight, x, y);
            }
        }
        Tensor::from_vec(&self.y, y)
    }

    /// The gradient of `x` from that of `y`.
    pub fn data_gradient(&self, weight: &Tensor, dy: &Tensor) -> Result<Tensor, OpError> {
        count(&self.x)?;
        match dy {
            Tensor::F32(_) if self.packs() => {
                let (weight, dy) = (shaped::<f32>(weight, &self.weight())?, shaped(dy, &self.y)?);
                let gradient = InputGradient::new(self.shape.clone(), &weight, self.extents()[0])?;
                Tensor::from_vec(&self.x, gradient.run(&dy, self.x[0], None)?)
            }
            _ => both!(dy, self.plain_data_gradient(weight, dy)),
        }
    }

    /// [`Problem::data_gradient`] by a kernel that has the weight.
    /// Added to `so_far`.
    pub fn data_gradient_by(
        &self,
        kernel: &InputGradient,
        dy: &Tensor,
        so_far: Option<&Array<f32>>,
    ) -> Result<Tensor, OpError> {
        count(&self.x)?;
        let so_far = so_far.map(elements);
        let sum = kernel.run(&shaped(dy, &self.y)?, self.x[0], so_far.as_deref())?;
        Tensor::from_vec(&self.x, sum)
    }

    fn plain_data_gradient<T: Real + Element>(
        &self,
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor, OpError> {
        let (weight, dy) = (shaped::<T>(weight, &self.weight())?, shaped::<T>(dy, &self.y)?);
        let mut dx = vec![T::default(); count(&self.x)?];
        if let Some((to, from)) = self.lengths() {
            for (dy, dx) in dy.chunks_exact(from).zip(dx.chunks_exact_mut(to)) {
                plain::data_gradient(&self.shape, self.extents(), &weight, dy, dx);
            }
        }
        Tensor::from_vec(&self.x, dx)
    }

    /// The gradient of the weight from `x` and the gradient of `y`.
    pub fn weight_gradient(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor, OpError> {
        let shape = self.weight();
        let total = count(&shape)?;
        match dy {
            Tensor::F32(_) if self.packs() => {
                let (x, dy) = (shaped::<f32>(x, &self.x)?, shaped(dy, &self.y)?);
                let mut dw = vec![0.0; total];
                let gradient = WeightGradient::new(self.shape.clone());
                gradient.add(&x, &dy, self.x[0], self.extents()[0], &mut dw)?;
                Tensor::from_vec(&shape, dw)
            }
            _ => both!(dy, self.plain_weight_gradient(x, dy)),
        }
    }

    /// [`Problem::weight_gradient`] by a kernel that has been used before, added to `so_far`.
    pub fn weight_gradient_by(
        &self,
        kernel: &WeightGradient,
        x: &Tensor,
        dy: &Tensor,
        so_far: Option<Array<f32>>,
    ) -> Result<Tensor, OpError> {
        let (x, dy) = (shaped(x, &self.x)?, shaped(dy, &self.y)?);
        let total = so_far.unwrap_or_else(|| zeros(&self.weight()));
        let mut result = Ok(());
        let total = update(total, |dw| {
            result = kernel.add(&x, &dy, self.x[0], self.extents()[0], dw);
        });
        result.map(|()| Tensor::F32(total))
    }

    fn plain_weight_gradient<T: Real + Element>(
        &self,
        x: &Tensor,
        dy: &Tensor,
    ) -> Result<Tensor, OpError> {
        let (x, dy) = (shaped::<T>(x, &self.x)?, shaped::<T>(dy, &self.y)?);
        let shape = self.weight();
        let mut dw = vec![T::default(); count(&shape)?];
        if let Some((from, to)) = self.lengths() {
            for (x, dy) in x.chunks_exact(from).zip(dy.chunks_exact(to)) {
                plain::weight_gradient(&self.shape, self.extents(), x, dy, &mut dw);
            }
        }
        Tensor::from_vec(&shape, dw)
    }
}

/// Adds a number per channel to `[samples, channels, spatial..]`.
pub(super) fn add_bias(y: Tensor, bias: &Tensor) -> Result<Tensor, OpError> {
    let channels = y.shape()[1];
    let plane: usize = y.shape()[2..].iter().product();
    floats!(y, "a convolution's output", y => {
        let bias = elements(bias.typed::<T>("a convolution's bias")?);
        if bias.len() != channels {
            let given = bias.len();
            return Err(OpError::shape(format!("{given} biases for {channels} output channels")));
        }
        Ok(Tensor::from(update(y, |y| {
            for (plane, bias) in y.chunks_exact_mut(plane.max(1)).zip(bias.iter().cycle()) {
                plane.iter_mut().for_each(|y| *y += bias);
            }
        })))
    })
}

/// The gradient of the bias: sums over all but the channels.
pub(super) fn bias_gradient(dy: &Tensor) -> Result<Tensor, OpError> {
    let channels = dy.shape()[1];
    let plane: usize = dy.shape()[2..].iter().product();
    floats!(dy.clone(), "a convolution's gradient", dy => {
        let mut sums: Vec<T> = vec![0.0; channels];
        for (i, plane) in elements(&dy).chunks_exact(plane.max(1)).enumerate() {
            sums[i % channels] += fold_row(plane, 0.0, |g| g, |a: T, b| a + b);
        }
        Tensor::from_vec(&[channels], sums)
    })
}
