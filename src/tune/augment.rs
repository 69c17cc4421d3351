//! Seeded changes of images that leave their meaning alone.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::OpError;
use crate::tensor::Tensor;

/// What is done to images before they are trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Half of the images are mirrored left to right.
    pub flip: bool,
    /// Images are moved by up to this share of their sides (in 1/256), what comes in being zero.
    pub shift: u8,
}

/// Where an image's channels, rows and columns are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    channels: usize,
    height: usize,
    width: usize,
    /// Distances between neighbours.
    strides: [usize; 3],
}

impl Augmentation {
    /// The usual share of their sides by which images are moved: an eighth.
    pub const SHIFT: u8 = 32;

    /// Whether nothing is done.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.flip && self.shift == 0
    }

    /// Whether an input of this shape, axis 0 the samples, can be an image.
    #[must_use]
    pub fn applies(shape: &[usize]) -> bool {
        plan(shape).is_some()
    }

    /// The batch with every image changed in its own way, which `seed` and its number decide; that of
    /// the first image is `first`.
    ///
    /// Tensors that are no batch of images of floats come back as they are.
    ///
    /// # Errors
    /// None are known; the shape stays the same.
    pub fn apply(&self, batch: &Tensor, seed: u64, first: u64) -> Result<Tensor, OpError> {
        let (Some(plan), Ok(_)) = (plan(batch.shape()), batch.f32("an image")) else {
            return Ok(batch.clone());
        };
        if self.is_none() {
            return Ok(batch.clone());
        }
        let images = batch.f32("an image")?.as_standard_layout();
        let images = images.as_slice().unwrap_or(&[]);
        let mut out = vec![0.0f32; images.len()];
        let length = plan.channels * plan.height * plan.width;
        let images = images.chunks_exact(length).zip(out.chunks_exact_mut(length));
        for (number, (image, out)) in (first..).zip(images) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(number);
            let flip = self.flip && random.random_bool(0.5);
            let down = self.offset(plan.height, &mut random);
            let right = self.offset(plan.width, &mut random);
            plan.copy(image, out, flip, down, right);
        }
        Tensor::from_vec(batch.shape(), out)
    }

    fn offset(&self, side: usize, random: &mut impl Rng) -> isize {
        let most = (side * usize::from(self.shift) / 256) as i64;
        random.random_range(-most..=most) as isize
    }
}

/// `[N, C, H, W]` or `[N, H, W, C]` with one, three or four channels.
fn plan(shape: &[usize]) -> Option<Plan> {
    let &[_, a, b, c] = shape else { return None };
    let few = |n: usize| matches!(n, 1 | 3 | 4);
    if few(a) && b >= 8 && c >= 8 {
        Some(Plan { channels: a, height: b, width: c, strides: [b * c, c, 1] })
    } else if few(c) && a >= 8 && b >= 8 {
        Some(Plan { channels: c, height: a, width: b, strides: [1, b * c, c] })
    } else {
        None
    }
}

impl Plan {
    fn copy(&self, image: &[f32], out: &mut [f32], flip: bool, down: isize, right: isize) {
        let [channel, row, column] = self.strides;
        let source = |at: usize, offset: isize, side: usize| {
            at.checked_add_signed(-offset).filter(|&at| at < side)
        };
        for y in 0..self.height {
            let Some(from_y) = source(y, down, self.height) else { continue };
            for x in 0..self.width {
                let Some(from_x) = source(x, right, self.width) else { continue };
                let from_x = if flip { self.width - 1 - from_x } else { from_x };
                for c in 0..self.channels {
                    out[c * channel + y * row + x * column] =
                        image[c * channel + from_y * row + from_x * column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::from_vec(shape, (0..count).map(|i| i as f32 + 1.0).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn images_are_mirrored_and_moved_whole() {
        let batch = images(&[40, 1, 8, 8]);
        let changed = Augmentation { flip: true, shift: 64 }.apply(&batch, 5, 0).unwrap();
        let (before, after) = (batch.to_f64_vec(), changed.to_f64_vec());
        let (mut mirrored, mut moved) = (0, 0);
        for (before, after) in before.chunks(64).zip(after.chunks(64)) {
            let found = (-2..=2isize)
                .flat_map(|d| (-2..=2isize).map(move |r| (d, r)))
                .flat_map(|(d, r)| [(d, r, false), (d, r, true)]);
            let matching: Vec<_> = found
                .filter(|&(down, right, flip)| {
                    (0..64isize).all(|i| {
                        let (y, x) = (i / 8 - down, i % 8 - right);
                        let inside = (0..8).contains(&y) && (0..8).contains(&x);
                        let x = if flip { 7 - x } else { x };
                        let expected = if inside { before[(y * 8 + x) as usize] } else { 0.0 };
                        after[i as usize] == expected
                    })
                })
                .collect();
            assert_eq!(matching.len(), 1, "an image is neither moved nor mirrored whole");
            mirrored += usize::from(matching[0].2);
            moved += usize::from((matching[0].0, matching[0].1) != (0, 0));
        }
        assert!((10..=30).contains(&mirrored) && moved > 25, "{mirrored} {moved}");
    }

    #[test]
    fn the_seed_decides_and_other_tensors_stay() {
        let augmentation = Augmentation { flip: true, shift: 32 };
        let batch = images(&[6, 16, 16, 3]);
        let first = augmentation.apply(&batch, 1, 0).unwrap();
        assert_eq!(first, augmentation.apply(&batch, 1, 0).unwrap());
        // However a batch is cut, an image is changed in the way of its number.
        let rest = augmentation.apply(&batch.slice_batch(2, 6), 1, 2).unwrap();
        assert_eq!(first.slice_batch(2, 6), rest);
        assert_ne!(first, augmentation.apply(&batch, 2, 0).unwrap());
        let tokens = images(&[6, 16]);
        assert_eq!(tokens, augmentation.apply(&tokens, 1, 0).unwrap());
    }
}
