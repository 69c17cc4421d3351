//! The forms that a layer can be factorized into.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a layer's weight is replaced by. `k x k` stands for the kernel of a Conv, in any number of
/// spatial dims; `r` for the rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Conv: `k x k` to `r` channels, then `1 x 1`.
    #[serde(rename = "channel")]
    ChannelOut,
    /// Conv: `1 x 1` to `r` channels, then `k x k`.
    ChannelIn,
    /// Conv: `k x 1` to `r` channels, then `1 x k`.
    Spatial,
    /// Conv: `1 x 1`, `k x k` between two ranks, `1 x 1`.
    Tucker,
    /// Gemm and MatMul: two matrices.
    Matrix,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ChannelOut, Self::ChannelIn, Self::Spatial, Self::Tucker, Self::Matrix];

    /// Its name on the command line, in plans and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelOut => "channel",
            Self::ChannelIn => "channel-in",
            Self::Spatial => "spatial",
            Self::Tucker => "tucker",
            Self::Matrix => "matrix",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase().replace('_', "-");
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|scheme| scheme.name() == text)
            .ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

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
