//! Weights in fewer bits, in forms that runtimes take.
//!
//! [`quantize`] decides the codes: it finds the constants that nodes multiply by or look up, and
//! rounds them so that the outputs of their layers change least. [`Quantization`] is the result as
//! data, and [`Quantization::apply`] writes it into a model.
//!
//! | form | stored | computed |
//! |---|---|---|
//! | int8 | weights as int8, one scale per output | in float: a runtime folds the `DequantizeLinear` |
//! | int4 | matrices as 4-bit blocks (`MatMulNBits`), the rest as int8, or as packed codes where that is said | in float |
//! | int4-dq | the same blocks as INT4 tensors before a blocked `DequantizeLinear` | in float |
//! | fp16 | weights as half floats | in float: a runtime folds the `Cast` |
//! | int8-dynamic | weights as int8 | in integers, inputs quantized by their own range each run |
//! | auto | int4, int8 or float, whichever is the smallest that keeps a layer's output | in float |
//! | int8-qdq | weights as int8, biases as int32 | values rounded to 8 bits at fixed ranges |

mod activations;
mod balance;
mod calibrate;
mod grid;
mod opset;
mod price;
mod range;
mod refuse;
mod round;
mod rounding;
mod select;
mod settled;
mod stored;
mod trained;
mod weights;
mod write;

use crate::named::named;
use serde::{Deserialize, Serialize};

pub use calibrate::Calibration;
pub use grid::Levels;
pub use price::{Kind, Price, TABLE};
pub use range::Range;
pub use refuse::check;
pub use rounding::{Rounded, compensated, nearest};
pub use select::{Kept, Quantized, quantize, rounded};
pub use settled::{Floats, Settled};
pub use stored::{Quantization, Storage, StoredConstant, StoredValues, StoredWeight};
pub use trained::Grid;
pub use weights::{Role, Use, Weight, params, weight_bytes, weights};

/// What a model's weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Eight bits, computed in float.
    #[default]
    Int8,
    /// Four bits for the matrices of MatMul and Gemm, eight for the rest, computed in float.
    Int4,
    /// The same in the standard's own four-bit tensors.
    Int4Dq,
    /// Half floats.
    Fp16,
    /// Eight bits, computed in integers: inputs are quantized by their own range on every run.
    Int8Dynamic,
    /// Eight bits for weights and values, at ranges that samples had.
    Int8Qdq,
    /// For each weight the fewest of four, eight and all bits that change its layer's output little,
    /// computed in float.
    Auto,
}

named!(Form {
    Int8 = "int8",
    Int4 = "int4",
    Int4Dq = "int4-dq",
    Fp16 = "fp16",
    Int8Dynamic = "int8-dynamic",
    Int8Qdq = "int8-qdq",
    Auto = "auto",
});

impl Form {
    /// Whether tract takes files of this form.
    #[must_use]
    pub fn runs_in_tract(self) -> bool {
        self != Self::Int4Dq
    }

    /// Whether values are rounded, not weights alone.
    #[must_use]
    pub fn rounds_values(self) -> bool {
        matches!(self, Self::Int8Dynamic | Self::Int8Qdq)
    }

    /// Whether it has several ways to store a weight that differ in quality.
    #[must_use]
    pub fn has_choice(self) -> bool {
        matches!(self, Self::Int4 | Self::Int4Dq | Self::Auto)
    }

    /// Whether it has a grid that weights can be trained on.
    #[must_use]
    pub fn has_grid(self) -> bool {
        self != Self::Fp16
    }

    /// Whether tract takes many times longer for files of this form.
    #[must_use]
    pub fn takes_long(self) -> bool {
        self == Self::Int8Dynamic
    }

    /// What this form costs at run time, for a person to read.
    #[must_use]
    pub fn cost(self) -> &'static str {
        match self {
            Self::Int8 | Self::Fp16 => {
                "weights become float when the model is loaded, so this is noise or the load of the \
                 machine"
            }
            Self::Int4 | Self::Auto => {
                "blocks of 32 stay packed and are unpacked on every run; blocks of another size \
                 become float when the model is loaded"
            }
            Self::Int4Dq => "it is a form for other runtimes",
            Self::Int8Dynamic => {
                "its integer kernels are plain loops; a runtime with integer instructions gains"
            }
            Self::Int8Qdq => {
                "values are rounded, then computed in float; a runtime that joins the rounding with \
                 the products gains"
            }
        }
    }
}

/// How weights are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rounding {
    /// To the nearest level.
    Nearest,
    /// By the second moments of the layers' inputs, so that outputs change least; without data as
    /// nearest.
    #[default]
    Compensated,
}

named!(Rounding { Nearest = "nearest", Compensated = "compensated" });

/// What is asked of a quantization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What weights become.
    pub form: Form,
    /// How they are rounded.
    pub rounding: Rounding,
    /// Weights that share a scale where four bits are stored.
    pub block: usize,
    /// Seed of the choice of positions at which inputs are looked at.
    pub seed: u64,
    /// How the ranges of values are found, where values are quantized.
    pub range: Range,
    /// Whether values are signed bytes.
    pub signed: bool,
    /// Whether weights that meet quantized values have seven bits: sums of two products then fit the
    /// 16 bits that processors without VNNI have for them.
    pub seven_bits: bool,
    /// Whether values stay float at the first and the last layer.
    pub float_ends: bool,
}

impl Settings {
    /// Whether weights have seven bits: bytes times such weights are summed in pairs.
    fn has_seven_bits(&self) -> bool {
        self.seven_bits && self.form.rounds_values()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            form: Form::Int8,
            rounding: Rounding::Compensated,
            block: 64,
            seed: 0,
            range: Range::Mse,
            signed: false,
            seven_bits: false,
            float_ends: false,
        }
    }
}
