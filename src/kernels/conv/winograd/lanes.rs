//! The inner loops: transforms, and sums over channels.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::{Clamp, Job, POINTS, Part, ROOT_HALF, ROOT_TWO, SEEN, SIDE, Target, WIDE, interleave};
use crate::kernels::lanes::{Isa, Lanes, Portable};

/// Convolves a part of a job. `scratch` has room for the padded copy and, behind it, the planes of all
/// points; every element of the part is written to `out`, the run's outputs.
pub(super) fn run(job: &Job<'_>, part: &Part, scratch: &mut [f32], out: Target) {
    match job.conv.isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the variant is only made on a processor that has the instructions.
        Isa::Avx512 => unsafe { run_avx512(job, part, scratch, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { run_avx2(job, part, scratch, out) },
        // SAFETY: plain code.
        Isa::Portable => unsafe { run_lanes::<Portable>(job, part, scratch, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512(job: &Job<'_>, part: &Part, scratch: &mut [f32], out: Target) {
    unsafe { run_lanes::<__m512>(job, part, scratch, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(job: &Job<'_>, part: &Part, scratch: &mut [f32], out: Target) {
    unsafe { run_lanes::<__m256>(job, part, scratch, out) }
}

#[inline(always)]
unsafe fn run_lanes<V: Lanes>(job: &Job<'_>, part: &Part, scratch: &mut [f32], out: Target) {
    let at = job.geometry;
    let [pitch_in, pitch_out] = at.pitches();
    let (image, planes) = scratch.split_at_mut(at.image_len());
    let (seen, sums) = planes.split_at_mut(POINTS * pitch_in);
    let (seen, sums) = (seen.as_mut_ptr(), sums.as_mut_ptr());
    let per_sample = at.tiles[0] * at.tiles[1];
    let in_len = job.input.len() / job.samples;
    let mut held = usize::MAX;
    // What is padding stays zero from sample to sample.
    let [elements, positions] = job.seen(part);
    image[elements].fill(0.0);
    for first in part.tiles.clone().step_by(at.block) {
        let count = at.block.min(part.tiles.end - first);
        for i in 0..count {
            let (sample, tile) = ((first + i) / per_sample, (first + i) % per_sample);
            if sample != held {
                let input = &job.input[sample * in_len..][..in_len];
                let (isa, places) = (job.conv.isa, Some(job.places));
                interleave(isa, input, at.channels, positions.clone(), places, image);
                held = sample;
            }
            let (y, x) = (tile / at.tiles[1] * SIDE, tile % at.tiles[1] * SIDE);
            // SAFETY: the copy has what every tile sees, and the planes have room for a block.
            unsafe {
                let from = image.as_ptr().add((y * at.image[1] + x) * at.channels_held);
                let row = at.image[1] * at.channels_held;
                let to = seen.add(i * at.channels_held);
                input_tile::<V>(from, row, at.channels_held, to, pitch_in);
            }
        }
        // SAFETY: as above; the weights were made for these numbers of channels.
        unsafe {
            for point in 0..POINTS {
                let weights = job.weights.as_ptr().add(point * at.channels * at.outputs_held);
                let (seen, sums) = (seen.add(point * pitch_in), sums.add(point * pitch_out));
                products::<V>(job, part, weights, seen, sums, count);
            }
            for i in 0..count {
                let (sample, tile) = ((first + i) / per_sample, (first + i) % per_sample);
                let place = [tile / at.tiles[1] * SIDE, tile % at.tiles[1] * SIDE];
                let from = sums.add(i * at.outputs_held);
                output_tile::<V>(job, part, from, pitch_out, sample, place, out.from(0));
            }
        }
    }
}

/// The input's transform along one axis.
#[inline(always)]
unsafe fn forward<V: Lanes>(d: [V; SEEN]) -> [V; SEEN] {
    // SAFETY: as the caller vouches.
    unsafe {
        let by = |factor: f64| V::splat(factor as f32);
        let even = [d[4].mul_add(by(-2.0), d[2]), d[4].mul_add(by(-0.5), d[2])];
        let odd = [d[3].mul_add(by(-2.0), d[1]), d[3].mul_add(by(-0.5), d[1])];
        [
            d[4].add(d[0]).mul_add(by(-2.5), d[2]),
            even[0].mul_add(by(ROOT_HALF), odd[0]),
            even[0].mul_add(by(-ROOT_HALF), odd[0]),
            even[1].mul_add(by(ROOT_TWO), odd[1]),
            even[1].mul_add(by(-ROOT_TWO), odd[1]),
            d[5].add(d[1]).mul_add(by(-2.5), d[3]),
        ]
    }
}

/// The output's transform along one axis.
#[inline(always)]
unsafe fn backward<V: Lanes>(m: [V; SEEN]) -> [V; SIDE] {
    // SAFETY: as the caller vouches.
    unsafe {
        let by = |factor: f64| V::splat(factor as f32);
        let none = by(0.0);
        let even = [m[1].add(m[2]), m[3].add(m[4])];
        let odd = [m[1].mul_add(by(-1.0), m[2]), m[3].mul_add(by(-1.0), m[4])];
        [
            m[0].add(even[0]).add(even[1]),
            none.mul_add(by(ROOT_HALF), odd[0]).mul_add(by(ROOT_TWO), odd[1]),
            none.mul_add(by(0.5), even[0]).mul_add(by(2.0), even[1]),
            m[5].mul_add(by(0.5 * ROOT_HALF), odd[0]).mul_add(by(2.0 * ROOT_TWO), odd[1]),
        ]
    }
}

/// What a tile sees, at all points. `row` is the distance between rows of the copy, `pitch` that
/// between points.
#[inline(always)]
unsafe fn input_tile<V: Lanes>(
    from: *const f32,
    row: usize,
    channels: usize,
    to: *mut f32,
    pitch: usize,
) {
    for channel in (0..channels).step_by(V::COUNT) {
        // SAFETY: as the caller vouches.
        unsafe {
            let mut half = [[V::splat(0.0); SEEN]; SEEN];
            for x in 0..SEEN {
                let from = from.add(x * channels + channel);
                let column = forward::<V>(std::array::from_fn(|y| V::load(from.add(y * row))));
                for y in 0..SEEN {
                    half[y][x] = column[y];
                }
            }
            for y in 0..SEEN {
                let points = forward::<V>(half[y]);
                for x in 0..SEEN {
                    points[x].store(to.add((y * SEEN + x) * pitch + channel));
                }
            }
        }
    }
}

/// The sums over channels at one point, for `count` tiles.
#[inline(always)]
unsafe fn products<V: Lanes>(
    job: &Job<'_>,
    part: &Part,
    weights: *const f32,
    seen: *const f32,
    sums: *mut f32,
    count: usize,
) {
    let at = job.geometry;
    for first in part.outputs.clone().step_by(WIDE * V::COUNT) {
        // SAFETY: as the caller vouches.
        unsafe {
            let weights = weights.add(first * at.channels);
            let sums = sums.add(first);
            if at.outputs_held - first >= WIDE * V::COUNT {
                column::<V, WIDE>(job, weights, seen, sums, count);
            } else {
                column::<V, 1>(job, weights, seen, sums, count);
            }
        }
    }
}

#[inline(always)]
unsafe fn column<V: Lanes, const N: usize>(
    job: &Job<'_>,
    weights: *const f32,
    seen: *const f32,
    sums: *mut f32,
    count: usize,
) {
    let at = job.geometry;
    let mut tile = 0;
    while tile < count {
        let left = count - tile;
        // SAFETY: as the caller vouches.
        unsafe {
            let (seen, sums) =
                (seen.add(tile * at.channels_held), sums.add(tile * at.outputs_held));
            tile += match (V::ROWS >= 8, left) {
                (true, 8..) => block::<V, 8, N>(job, weights, seen, sums),
                (false, 6..) => block::<V, 6, N>(job, weights, seen, sums),
                (_, 4..) => block::<V, 4, N>(job, weights, seen, sums),
                (_, 2..) => block::<V, 2, N>(job, weights, seen, sums),
                _ => block::<V, 1, N>(job, weights, seen, sums),
            };
        }
    }
}

/// `TILES` tiles times `N` vectors of output channels. Returns `TILES`.
#[inline(always)]
unsafe fn block<V: Lanes, const TILES: usize, const N: usize>(
    job: &Job<'_>,
    mut weights: *const f32,
    seen: *const f32,
    to: *mut f32,
) -> usize {
    let at = job.geometry;
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; TILES];
        let rows: [*const f32; TILES] = std::array::from_fn(|i| seen.add(i * at.channels_held));
        for channel in 0..at.channels {
            let weight: [V; N] = std::array::from_fn(|n| V::load(weights.add(n * V::COUNT)));
            for i in 0..TILES {
                let x = V::splat(*rows[i].add(channel));
                for n in 0..N {
                    sums[i][n] = sums[i][n].mul_add(x, weight[n]);
                }
            }
            weights = weights.add(N * V::COUNT);
        }
        for i in 0..TILES {
            for n in 0..N {
                sums[i][n].store(to.add(i * at.outputs_held + n * V::COUNT));
            }
        }
    }
    TILES
}

/// The outputs of a tile whose first one is at `place`, from what it has at all points.
#[inline(always)]
unsafe fn output_tile<V: Lanes>(
    job: &Job<'_>,
    part: &Part,
    from: *const f32,
    pitch: usize,
    sample: usize,
    place: [usize; 2],
    out: *mut f32,
) {
    let at = job.geometry;
    let [height, width] = at.output;
    let [rows, columns] = [(height - place[0]).min(SIDE), (width - place[1]).min(SIDE)];
    let plane = height * width;
    let first = sample * at.outputs * plane + place[0] * width + place[1];
    let clamp = job.clamp;
    for channel in (part.outputs.start..part.outputs.end.min(at.outputs)).step_by(V::COUNT) {
        let count = V::COUNT.min(at.outputs - channel);
        // SAFETY: as the caller vouches.
        unsafe {
            let mut half = [[V::splat(0.0); SEEN]; SIDE];
            for x in 0..SEEN {
                let from = from.add(x * pitch + channel);
                let load = |y: usize| V::load(from.add(y * SEEN * pitch));
                let column = backward::<V>(std::array::from_fn(load));
                for y in 0..SIDE {
                    half[y][x] = column[y];
                }
            }
            let mut bias = [0.0f32; 16];
            bias[..count].copy_from_slice(&job.conv.bias[channel..channel + count]);
            let bias = V::load(bias.as_ptr());
            let (low, high) = (V::splat(clamp.low), V::splat(clamp.high));
            let mut values = [V::splat(0.0); SIDE * SIDE];
            for y in 0..SIDE {
                let line = backward::<V>(half[y]);
                for x in 0..SIDE {
                    let value = line[x].add(bias);
                    // What is added comes before the bounds.
                    let bounded = job.residual.is_none();
                    values[y * SIDE + x] = if bounded { value.clamp(low, high) } else { value };
                }
            }
            let mut lanes = [[0.0f32; SIDE * SIDE]; 16];
            for group in 0..SIDE * SIDE / V::COUNT {
                let mut some = [V::splat(0.0); 16];
                some[..V::COUNT].copy_from_slice(&values[group * V::COUNT..][..V::COUNT]);
                V::transpose(&mut some);
                for (lanes, vector) in lanes.iter_mut().zip(&some).take(V::COUNT) {
                    vector.store(lanes.as_mut_ptr().add(group * V::COUNT));
                }
            }
            for (c, lanes) in lanes.iter().enumerate().take(count) {
                let first = first + (channel + c) * plane;
                for y in 0..rows {
                    let mut line = [0.0f32; SIDE];
                    line.copy_from_slice(&lanes[y * SIDE..][..SIDE]);
                    let to = first + y * width;
                    // Loops of a constant length stay in a register.
                    if columns == SIDE {
                        if let Some(residual) = job.residual {
                            let others: [f32; SIDE] =
                                residual.as_ptr().add(to).cast::<[f32; SIDE]>().read_unaligned();
                            for x in 0..SIDE {
                                line[x] = bounded(line[x] + others[x], clamp);
                            }
                        }
                        out.add(to).cast::<[f32; SIDE]>().write_unaligned(line);
                    } else {
                        for x in 0..columns {
                            let value = match job.residual {
                                Some(others) => {
                                    bounded(line[x] + others.get_unchecked(to + x), clamp)
                                }
                                None => line[x],
                            };
                            out.add(to + x).write(value);
                        }
                    }
                }
            }
        }
    }
}

/// A value within bounds; NaN stays NaN.
#[inline(always)]
fn bounded(value: f32, clamp: Clamp) -> f32 {
    let value = if value < clamp.low { clamp.low } else { value };
    if value > clamp.high { clamp.high } else { value }
}
