//! Copies in which channels are innermost.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use crate::kernels::lanes::{Isa, Lanes, Part, Portable};

/// Copies channel after channel to position after position: at the given places, else one after the
/// other. Only the positions `range` are copied.
pub(super) fn interleave(
    isa: Isa,
    from: &[f32],
    channels: usize,
    range: Range<usize>,
    places: Option<&[usize]>,
    to: &mut [f32],
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the variant is only made on a processor that has the instructions.
        Isa::Avx512 => unsafe { interleave_avx512(from, channels, range, places, to) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { interleave_avx2(from, channels, range, places, to) },
        // SAFETY: plain code.
        Isa::Portable => unsafe { interleave_lanes::<Portable>(from, channels, range, places, to) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn interleave_avx512(
    from: &[f32],
    channels: usize,
    range: Range<usize>,
    places: Option<&[usize]>,
    to: &mut [f32],
) {
    unsafe { interleave_lanes::<__m512>(from, channels, range, places, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn interleave_avx2(
    from: &[f32],
    channels: usize,
    range: Range<usize>,
    places: Option<&[usize]>,
    to: &mut [f32],
) {
    unsafe { interleave_lanes::<__m256>(from, channels, range, places, to) }
}

#[inline(always)]
unsafe fn interleave_lanes<V: Lanes>(
    from: &[f32],
    channels: usize,
    range: Range<usize>,
    places: Option<&[usize]>,
    to: &mut [f32],
) {
    let plane = from.len() / channels;
    for position in range.clone().step_by(V::COUNT) {
        let count = V::COUNT.min(range.end - position);
        let part = Part::new(0, count, 1);
        for channel in (0..channels).step_by(V::COUNT) {
            let rows = V::COUNT.min(channels - channel);
            // SAFETY: rows and columns are those that `from` has; places were made for `to`, and
            // lanes past the last channel are not written.
            unsafe {
                let mut block = [V::splat(0.0); 16];
                let source = from.as_ptr().add(channel * plane + position);
                for (row, vector) in block.iter_mut().enumerate().take(rows) {
                    *vector = if count == V::COUNT {
                        V::load(source.add(row * plane))
                    } else {
                        V::load_part::<1>(source.add(row * plane), part)
                    };
                }
                V::transpose(&mut block);
                let part = Part::new(0, rows, 1);
                for (i, vector) in block.iter().enumerate().take(count) {
                    let place = match places {
                        Some(places) => places[position + i],
                        None => (position + i) * channels,
                    };
                    if place == usize::MAX {
                        continue;
                    }
                    let to = to.as_mut_ptr().add(place + channel);
                    if rows == V::COUNT {
                        vector.store(to);
                    } else {
                        vector.store_part(to, part);
                    }
                }
            }
        }
    }
}
