//! A run that is cut into parts has the bits of one that is not.

use super::*;
use crate::kernels::share;

#[test]
fn parts_have_the_bits_of_the_whole() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    // Channels, groups, kernel, stride and extents: by tiles, by blocks of a few tiles' outputs, by
    // positions with and without a tail, by output channels, by groups.
    let cases = [
        ([7, 19], 1, 3, 1, [21, 18]),
        ([16, 96], 1, 3, 1, [4, 4]),
        ([24, 24], 1, 3, 1, [24, 24]),
        ([12, 20], 1, 1, 1, [33, 31]),
        ([12, 20], 1, 1, 1, [16, 48]),
        ([9, 50], 1, 3, 2, [5, 5]),
        ([6, 14], 1, 5, 2, [40, 37]),
        ([30, 30], 30, 3, 1, [11, 12]),
        ([4, 8], 2, 3, 1, [30, 40]),
    ];
    for (channels, groups, kernel, stride, extents) in cases {
        let shape = ConvShape {
            in_channels: channels[0],
            out_channels: channels[1],
            groups,
            kernel: [1, kernel, kernel],
            strides: [1, stride, stride],
            dilations: [1; 3],
            pads_begin: [0, kernel / 2, kernel / 2],
            pads_end: [0, kernel / 2, kernel / 2],
        };
        let spatial = [1, extents[0], extents[1]];
        let count = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0);
        let weight: Vec<f32> = count(shape.out_channels * shape.taps()).collect();
        let bias: Vec<f32> = count(shape.out_channels).collect();
        let plane: usize = shape.output(spatial).unwrap().iter().product();
        for samples in [1, 2] {
            let input: Vec<f32> =
                count(samples * shape.in_channels * extents[0] * extents[1]).collect();
            let out_len = samples * shape.out_channels * plane;
            let residual: Vec<f32> = count(out_len).collect();
            for isa in isas() {
                let conv = PackedConv::for_isa(shape.clone(), &weight, &bias, isa);
                let run = || -> Vec<u32> {
                    let mut out = vec![MaybeUninit::new(f32::NAN); out_len];
                    conv.run(&input, samples, spatial, Some(&residual), Clamp::RELU, &mut out)
                        .unwrap();
                    // SAFETY: every element was written, if only before the run.
                    out.iter().map(|v| unsafe { v.assume_init() }.to_bits()).collect()
                };
                let whole = run();
                let parts = pool.install(|| share::alone_from(1, run));
                assert!(whole == parts, "{isa:?} {shape:?} {samples}");
            }
        }
    }
}
