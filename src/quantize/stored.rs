//! A quantization as data, so that it can be replayed without samples.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Form;
use crate::elements::Elements;

/// What becomes of a model's weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quantization {
    /// What was asked for.
    pub form: Form,
    /// The weights that are stored in fewer bits, by name.
    pub weights: Vec<StoredWeight>,
    /// Biases that make up for the rounding of weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<StoredConstant>,
    /// Values that are rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<StoredValues>,
}

/// Values that are rounded to 8 bits where they are read by nodes that can do with that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredValues {
    /// Their names.
    pub names: Vec<String>,
    /// Their scales.
    pub scales: Elements,
    /// Their codes for zero.
    pub zero_points: Vec<i32>,
    /// Whether the codes are signed.
    pub signed: bool,
    /// Nodes that go on reading floats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub float_nodes: Vec<String>,
}

/// How a constant is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// int8 before a `DequantizeLinear` with one scale for each position along an axis.
    Int8,
    /// 4-bit blocks inside a `MatMulNBits` of the domain `com.microsoft`.
    Int4,
    /// INT4 before a blocked `DequantizeLinear`.
    Int4Dq,
    /// 4-bit codes, two a byte, that a table of levels gives as int8 before a `DequantizeLinear` with one
    /// scale for each position along an axis.
    Int4Packed,
    /// Half floats before a `Cast`.
    Fp16,
    /// int8 inside a `MatMulInteger` or `ConvInteger`, one scale for each output.
    Int8Dynamic,
}

impl Storage {
    /// Whether several elements of a row share a scale, and not all of it.
    #[must_use]
    pub(super) fn has_blocks(self) -> bool {
        matches!(self, Self::Int4 | Self::Int4Dq)
    }

    /// Bits of one element.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Int8 | Self::Int8Dynamic => 8,
            Self::Int4 | Self::Int4Dq | Self::Int4Packed => 4,
            Self::Fp16 => 16,
        }
    }
}

/// A weight in fewer bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredWeight {
    /// Its name in the model.
    pub name: String,
    /// Its shape, which the model must have.
    pub shape: Vec<usize>,
    /// Checksum of the float elements that it stands for, which the model must have.
    pub checksum: u64,
    /// How it is stored.
    pub storage: Storage,
    /// The axis along which scales differ; where there are blocks, the one they lie along.
    pub axis: usize,
    /// Elements along the axis that share a scale; 0 where each position has its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub block: usize,
    /// Codes in the order of the elements; none for half floats.
    pub codes: Codes,
    /// Scales: for each position along the axis; where there are blocks in the order of a tensor
    /// whose axis counts blocks.
    pub scales: Elements,
}

/// A float constant with new elements.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredConstant {
    /// Its name in the model.
    pub name: String,
    /// Its elements; the shape stays.
    pub data: Elements,
}

/// Codes, which are base64 where they are stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes(pub Vec<i8>);

impl Serialize for Codes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().map(|&c| c.cast_unsigned()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Codes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into_iter().map(u8::cast_signed).collect()))
    }
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// FNV-1a over the bits of float elements.
#[must_use]
pub(super) fn checksum(elements: &[f32]) -> u64 {
    elements.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, v| {
        (hash ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3)
    })
}
