//! The forms that a layer can be factorized into.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// What a layer's weight is replaced by. `k x k` stands for the kernel of a Conv, in any number of
/// spatial dims; `r` for the rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Conv and ConvTranspose: `k x k` to `r` channels, then `1 x 1`.
    #[serde(rename = "channel")]
    ChannelOut,
    /// Conv and ConvTranspose: `1 x 1` to `r` channels, then `k x k`.
    ChannelIn,
    /// Conv: `k x 1` to `r` channels, then `1 x k`.
    Spatial,
    /// Conv: `1 x 1`, `k x k` between two ranks, `1 x 1`.
    Tucker,
    /// Gemm and MatMul: two matrices.
    Matrix,
}

named!(Scheme {
    ChannelOut = "channel",
    ChannelIn = "channel-in",
    Spatial = "spatial",
    Tucker = "tucker",
    Matrix = "matrix",
});

#[cfg(test)]
mod tests {
    use super::Scheme;

    #[test]
    fn one_name_everywhere() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
            let json = serde_json::to_string(&scheme).expect("a name");
            assert_eq!(json, format!("\"{scheme}\""));
            assert_eq!(serde_json::from_str::<Scheme>(&json).expect("a scheme"), scheme);
        }
        assert!("svd".parse::<Scheme>().is_err());
    }
}
