mod gradients;

use super::*;

/// Sums in f64, straight from the definition.
fn naive(
    shape: &ConvShape,
    weight: &[f32],
    bias: &[f32],
    input: &[f32],
    spatial: Spatial,
) -> Vec<f32> {
    let out = shape.output(spatial).unwrap();
    let mut result = Vec::new();
    for oc in 0..shape.out_channels {
        let group = oc / shape.group_out();
        for position in 0..out.iter().product() {
            let at = [position / (out[1] * out[2]), position / out[2] % out[1], position % out[2]];
            let mut sum = f64::from(bias[oc]);
            for tap in 0..shape.taps() {
                let area: usize = shape.kernel.iter().product();
                let (c, k) = (tap / area, tap % area);
                let k = [
                    k / (shape.kernel[1] * shape.kernel[2]),
                    k / shape.kernel[2] % shape.kernel[1],
                    k % shape.kernel[2],
                ];
                let mut index = group * shape.group_in() + c;
                let mut inside = true;
                for axis in 0..3 {
                    let place = at[axis] * shape.strides[axis] + k[axis] * shape.dilations[axis];
                    match place.checked_sub(shape.pads_begin[axis]) {
                        Some(place) if place < spatial[axis] => {
                            index = index * spatial[axis] + place;
                        }
                        _ => inside = false,
                    }
                }
                if inside {
                    sum += f64::from(weight[oc * shape.taps() + tap]) * f64::from(input[index]);
                }
            }
            result.push(sum as f32);
        }
    }
    result
}

fn isas() -> Vec<Isa> {
    let mut isas = vec![Isa::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            isas.push(Isa::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            isas.push(Isa::Avx512);
        }
    }
    isas
}

#[test]
fn agrees_with_the_definition_over_random_shapes() {
    let mut state = 12_345u64;
    let mut random = |range: std::ops::Range<usize>| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        range.start + (state >> 33) as usize % (range.end - range.start)
    };
    for case in 0..400 {
        let groups = if case % 3 == 0 { random(1..5) } else { 1 };
        let mut shape = ConvShape {
            in_channels: groups * random(1..7),
            out_channels: groups * random(1..40),
            groups,
            kernel: [1; 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads_begin: [0; 3],
            pads_end: [0; 3],
        };
        let mut spatial = [1; 3];
        let pointwise = case % 5 == 0;
        for axis in [random(0..3), 2].into_iter().min().map_or(0..0, |first| first..3) {
            spatial[axis] = random(1..if axis == 2 { 41 } else { 7 });
            if !pointwise {
                shape.kernel[axis] = random(1..5);
                shape.strides[axis] = random(1..4);
                shape.dilations[axis] = random(1..3);
                shape.pads_begin[axis] = random(0..4);
                shape.pads_end[axis] = random(0..4);
            }
        }
        if shape.output(spatial).is_err() {
            continue;
        }
        let mut values = |n: usize| -> Vec<f32> {
            (0..n).map(|_| random(0..2001) as f32 / 1000.0 - 1.0).collect()
        };
        let samples = 2;
        let in_len = shape.in_channels * spatial.iter().product::<usize>();
        let weight = values(shape.out_channels * shape.taps());
        let bias = values(shape.out_channels);
        let input = values(samples * in_len);
        let mut expected = Vec::new();
        for sample in input.chunks(in_len) {
            expected.extend(naive(&shape, &weight, &bias, sample, spatial));
        }
        let residual = values(expected.len());
        let (with_residual, clamp) = match case % 4 {
            0 => (None, Clamp::NONE),
            1 => (None, Clamp::RELU),
            2 => (Some(&residual[..]), Clamp { low: -0.5, high: 0.75 }),
            _ => (Some(&residual[..]), Clamp::NONE),
        };
        for (i, e) in expected.iter_mut().enumerate() {
            let sum = *e + with_residual.map_or(0.0, |r| r[i]);
            *e = sum.clamp(clamp.low, clamp.high);
        }
        for isa in isas() {
            let conv = PackedConv::for_isa(shape.clone(), &weight, &bias, isa);
            let mut out = vec![f32::NAN; expected.len()];
            // SAFETY: initialised elements may be seen as possibly uninitialised ones.
            let target =
                unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()) };
            conv.run(&input, samples, spatial, with_residual, clamp, target).unwrap();
            for (i, (&got, &want)) in out.iter().zip(&expected).enumerate() {
                assert!(
                    (got - want).abs() <= 1e-4 * (1.0 + want.abs()),
                    "{isa:?} {shape:?} over {spatial:?}: element {i} is {got}, should be {want}"
                );
            }
        }
    }
}

#[test]
fn refuses_a_kernel_larger_than_the_input() {
    let shape = ConvShape {
        in_channels: 1,
        out_channels: 1,
        groups: 1,
        kernel: [1, 1, 5],
        strides: [1; 3],
        dilations: [1; 3],
        pads_begin: [0; 3],
        pads_end: [0; 3],
    };
    let conv = PackedConv::new(shape, &[1.0; 5], &[]);
    assert!(conv.run(&[0.0; 4], 1, [1, 1, 4], None, Clamp::NONE, &mut []).is_err());
}
