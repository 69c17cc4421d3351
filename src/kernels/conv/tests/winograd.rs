//! The way with fewer products against the definition.

use super::*;
use crate::kernels::conv::winograd::Winograd;

fn shape(channels: [usize; 2], pads: [usize; 4]) -> ConvShape {
    ConvShape {
        in_channels: channels[0],
        out_channels: channels[1],
        groups: 1,
        kernel: [1, 3, 3],
        strides: [1; 3],
        dilations: [1; 3],
        pads_begin: [0, pads[0], pads[1]],
        pads_end: [0, pads[2], pads[3]],
    }
}

#[test]
fn agrees_with_the_definition() {
    let mut state = 99u64;
    let mut random = |range: std::ops::Range<usize>| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        range.start + (state >> 33) as usize % (range.end - range.start)
    };
    for case in 0..60 {
        let pads = std::array::from_fn(|_| random(0..3));
        let shape = shape([random(1..41), random(1..70)], pads);
        let spatial = [1, random(3..23), random(3..23)];
        let output = shape.output(spatial).unwrap();
        let (in_len, out_len) = (
            shape.in_channels * spatial.iter().product::<usize>(),
            shape.out_channels * output.iter().product::<usize>(),
        );
        let samples = random(1..5);
        let mut values = |n: usize| -> Vec<f32> {
            (0..n).map(|_| random(0..2001) as f32 / 1000.0 - 1.0).collect()
        };
        let weight = values(shape.out_channels * shape.taps());
        let bias = values(shape.out_channels);
        let input = values(samples * in_len);
        let residual = (case % 2 == 0).then(|| values(samples * out_len));
        let clamp = if case % 3 == 0 { Clamp { low: -0.5, high: 2.0 } } else { Clamp::NONE };
        let mut expected = Vec::new();
        for sample in input.chunks(in_len) {
            expected.extend(naive(&shape, &weight, &bias, sample, spatial));
        }
        if let Some(residual) = &residual {
            expected.iter_mut().zip(residual).for_each(|(e, r)| *e += r);
        }
        let largest = expected.iter().fold(1.0f32, |m, e| m.max(e.abs()));
        expected.iter_mut().for_each(|e| *e = e.clamp(clamp.low, clamp.high));
        for isa in isas() {
            let conv = PackedConv::for_isa(shape.clone(), &weight, &bias, isa);
            let mut out = vec![MaybeUninit::new(f32::NAN); samples * out_len];
            // What earlier runs have left is no part of the result.
            SCRATCH.set(vec![f32::NAN; 1000]);
            Winograd::new(&conv).run(
                &conv,
                &input,
                samples,
                spatial,
                output,
                residual.as_deref(),
                clamp,
                &mut out,
            );
            // SAFETY: every element was written, if only before the run.
            let out = out.iter().map(|v| unsafe { v.assume_init() });
            for (i, (out, expected)) in out.zip(&expected).enumerate() {
                let apart = (out - expected).abs();
                assert!(apart <= 4e-6 * largest, "case {case} {isa:?} at {i}: {out} {expected}");
            }
        }
    }
}

/// A sample's result doesn't depend on what is run along with it: runs are cut by the number of threads.
#[test]
fn samples_have_the_same_bits_alone() {
    let (shape, spatial, samples) = (shape([24, 40], [1; 4]), [1, 10, 13], 7);
    let count = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0);
    let weight: Vec<f32> = count(shape.out_channels * shape.taps()).collect();
    let in_len = shape.in_channels * 130;
    let input: Vec<f32> = count(samples * in_len).collect();
    for isa in isas() {
        let conv = PackedConv::for_isa(shape.clone(), &weight, &[], isa);
        let winograd = Winograd::new(&conv);
        let run = |input: &[f32], samples: usize| -> Vec<u32> {
            let mut out = vec![MaybeUninit::new(f32::NAN); samples * shape.out_channels * 130];
            winograd.run(&conv, input, samples, spatial, spatial, None, Clamp::NONE, &mut out);
            // SAFETY: every element was written, if only before the run.
            out.iter().map(|v| unsafe { v.assume_init() }.to_bits()).collect()
        };
        let alone: Vec<u32> = input.chunks(in_len).flat_map(|one| run(one, 1)).collect();
        assert!(alone == run(&input, samples), "{isa:?}");
    }
}
