//! Which positions of sequences count, where a mask leaves some out.

use crate::tensor::Tensor;

/// The positions of sequences that a mask leaves in. What a model gives at the others is padding: no user
/// looks at it, and nothing is lost by its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Positions of every sequence.
    length: usize,
    /// For every sample those that count, ascending.
    kept: Vec<Vec<usize>>,
}

impl Tokens {
    /// From a mask `[samples, length]` of any type; `None` where it leaves out nothing, or holds other
    /// numbers than 0 and 1.
    #[must_use]
    pub fn of(mask: &Tensor) -> Option<Self> {
        let &[_, length] = mask.shape() else { return None };
        let values = mask.to_f64_vec();
        let is_mask = values.iter().all(|&v| v == 0.0 || v == 1.0);
        if !is_mask || length == 0 || values.iter().all(|&v| v == 1.0) {
            return None;
        }
        let kept = |row: &[f64]| (0..length).filter(|&i| row[i] != 0.0).collect();
        Some(Self { length, kept: values.chunks_exact(length).map(kept).collect() })
    }

    /// The positions of a sample that count, where it has `count` of them as its sequence has and at
    /// least one of them counts.
    #[must_use]
    pub fn kept(&self, sample: usize, count: usize) -> Option<&[usize]> {
        let kept = self.kept.get(sample)?;
        (count == self.length && !kept.is_empty()).then_some(kept)
    }

    /// Sets the values of an output of samples from number `first` on to zero at the positions that
    /// don't count, where its `shape` is `[samples, length, features..]`.
    pub fn clear(&self, first: usize, shape: &[usize], values: &mut [f64]) {
        let &[samples, count, _, ..] = shape else { return };
        let length = (values.len() / samples.max(1)).max(1);
        for (sample, values) in values.chunks_exact_mut(length).enumerate() {
            let Some(kept) = self.kept(first + sample, count) else { continue };
            let mut kept = kept.iter().peekable();
            for (position, values) in values.chunks_mut((length / count).max(1)).enumerate() {
                if kept.next_if_eq(&&position).is_none() {
                    values.fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_mask_leaves_out_is_cleared() {
        let mask = |values: &[i64]| Tensor::from_vec(&[2, 3], values.to_vec()).unwrap();
        let tokens = Tokens::of(&mask(&[1, 0, 1, 0, 0, 0])).unwrap();
        assert_eq!(tokens.kept(0, 3), Some(&[0, 2][..]));
        assert_eq!((tokens.kept(0, 4), tokens.kept(1, 3), tokens.kept(2, 3)), (None, None, None));
        let mut values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        tokens.clear(0, &[1, 3, 2], &mut values);
        assert_eq!(values, [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        // All of a sample without tokens counts, as do outputs of other axes.
        let all = [7.0; 6];
        for (sample, shape) in [(1, &[1, 3, 2][..]), (0, &[1, 6]), (0, &[1, 2, 3])] {
            let mut values = all;
            tokens.clear(sample, shape, &mut values);
            assert_eq!(values, all, "{sample} {shape:?}");
        }
        assert_eq!(Tokens::of(&mask(&[1; 6])), None);
        assert_eq!(Tokens::of(&mask(&[1, 2, 1, 0, 0, 0])), None);
    }
}
