//! A key of bytes: FNV-1a in 64 bits. It tells changes from what was, not friend from foe.

/// A running key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes in bytes; where neighbours are to be kept apart, their lengths as well.
    pub fn mix(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Takes in bytes and their number.
    pub fn add(&mut self, bytes: &[u8]) {
        self.mix(bytes);
        self.mix(&(bytes.len() as u64).to_le_bytes());
    }

    /// The key so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// The same in 16 hexadecimal digits.
    #[must_use]
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Fnv;

    /// The test vector of the algorithm's authors for `foobar`.
    #[test]
    fn keys_are_fnv() {
        let mut key = Fnv::default();
        key.mix(b"foobar");
        assert_eq!(key.text(), "85944171f73967e8");
        let (mut a, mut b) = (Fnv::default(), Fnv::default());
        for (x, y) in [("ab", "a"), ("c", "bc")] {
            a.add(x.as_bytes());
            b.add(y.as_bytes());
        }
        assert_ne!(a, b);
    }
}
