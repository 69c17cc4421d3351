//! Weights in fewer bits, in forms that runtimes take.
//!
//! [`quantize`] decides the codes: it finds the constants that nodes multiply by or look up, and
//! rounds them so that the outputs of their layers change least. [`Quantization`] is the result as
//! data, and [`Quantization::apply`] writes it into a model.
//!
//! | form | stored | computed |
//! |---|---|---|
//! | int8 | weights as int8, one scale per output | in float: a runtime folds the `DequantizeLinear` |
//! | int4 | matrices as 4-bit blocks (`MatMulNBits`), the rest as int8 | in float |
//! | int4-dq | the same blocks as INT4 tensors before a blocked `DequantizeLinear` | in float |
//! | fp16 | weights as half floats | in float: a runtime folds the `Cast` |
//! | int8-dynamic | weights as int8 | in integers, inputs quantized by their own range each run |
//! | int8-qdq | weights as int8, biases as int32 | values rounded to 8 bits at fixed ranges |

mod calibrate;
mod grid;
mod rounding;
mod select;
mod stored;
mod weights;
mod write;

use crate::named::named;
use serde::{Deserialize, Serialize};

pub use calibrate::Calibration;
pub use grid::Levels;
pub use rounding::{Rounded, compensated, nearest};
pub use select::{Kept, Price, check, quantize};
pub use stored::{Quantization, Storage, StoredConstant, StoredWeight};
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
}

named!(Form { Int8 = "int8", Int4 = "int4", Int4Dq = "int4-dq", Fp16 = "fp16" });

impl Form {
    /// Whether tract takes files of this form.
    #[must_use]
    pub fn runs_in_tract(self) -> bool {
        self != Self::Int4Dq
    }

    /// What this form costs at run time, for a person to read.
    #[must_use]
    pub fn cost(self) -> &'static str {
        match self {
            Self::Int8 | Self::Fp16 => {
                "weights become float when the model is loaded, so this is noise or the load of the \
                 machine"
            }
            Self::Int4 => {
                "blocks of 32 stay packed and are unpacked on every run; blocks of another size \
                 become float when the model is loaded"
            }
            Self::Int4Dq => "it is a form for other runtimes",
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
}

impl Default for Settings {
    fn default() -> Self {
        Self { form: Form::Int8, rounding: Rounding::Compensated, block: 64, seed: 0 }
    }
}
