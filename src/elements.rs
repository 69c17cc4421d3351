//! Elements of `f32` as text: base64 of their little-endian bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Elements as text.
pub fn encode(elements: impl IntoIterator<Item = f32>) -> String {
    let bytes: Vec<u8> = elements.into_iter().flat_map(f32::to_le_bytes).collect();
    STANDARD.encode(bytes)
}

/// The elements of a text.
///
/// # Errors
/// Why it is none.
pub fn decode(text: &str) -> Result<Vec<f32>, String> {
    let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
    if bytes.len() % 4 != 0 {
        return Err("not a whole number of elements".to_owned());
    }
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Elements that are text where they are stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Elements(pub Vec<f32>);

impl Serialize for Elements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(self.0.iter().copied()))
    }
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_comes_back() {
        let elements = Elements(vec![0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::INFINITY, -3e38]);
        let text = serde_json::to_string(&elements).expect("text");
        let back: Elements = serde_json::from_str(&text).expect("elements");
        let bits = |e: &Elements| e.0.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&elements));
        assert!(serde_json::from_str::<Elements>("\"AAA\"").is_err());
        assert!(decode("AAAA").is_err());
    }
}
