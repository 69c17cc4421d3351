mod parts;
mod plain_kernel;
mod winograd;

use super::*;

/// Calls `product` for every weight that meets an input: output channel, output position, tap, and
/// index of the input.
fn products(
    shape: &ConvShape,
    spatial: Spatial,
    mut product: impl FnMut(usize, usize, usize, usize),
) {
    let out = shape.output(spatial).unwrap();
    for oc in 0..shape.out_channels {
        let group = oc / shape.group_out();
        for position in 0..out.iter().product() {
            let at = [position / (out[1] * out[2]), position / out[2] % out[1], position % out[2]];
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
                    product(oc, position, tap, index);
                }
            }
        }
    }
}

/// Sums in f64, straight from the definition.
fn naive(
    shape: &ConvShape,
    weight: &[f32],
    bias: &[f32],
    input: &[f32],
    spatial: Spatial,
) -> Vec<f32> {
    let plane: usize = shape.output(spatial).unwrap().iter().product();
    let mut sums: Vec<f64> =
        (0..shape.out_channels * plane).map(|i| f64::from(bias[i / plane])).collect();
    products(shape, spatial, |oc, position, tap, index| {
        sums[oc * plane + position] +=
            f64::from(weight[oc * shape.taps() + tap]) * f64::from(input[index]);
    });
    sums.into_iter().map(|v| v as f32).collect()
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

fn close(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1.0, |s: f64, v| s.max(v.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= 1e-5 * scale, "{what}: element {i} is {got}, should be {want}");
    }
}

#[test]
fn gradients_follow_the_definition() {
    let mut state = 99u64;
    let mut next = |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for case in 0..150 {
        let axes = 1 + case % 3;
        let flat = |value: &mut dyn FnMut() -> usize, rest: usize| -> Spatial {
            std::array::from_fn(|axis| if axis + axes >= 3 { value() } else { rest })
        };
        let groups = [1, 1, 2, 3][next(4) as usize];
        let depthwise = next(5) == 0;
        let (group_in, group_out) =
            if depthwise { (1, 1) } else { (1 + next(5) as usize, 1 + next(9) as usize) };
        let shape = ConvShape {
            in_channels: groups * group_in,
            out_channels: groups * group_out,
            groups,
            kernel: flat(&mut || 1 + next(3) as usize, 1),
            strides: flat(&mut || 1 + next(3) as usize, 1),
            dilations: flat(&mut || 1 + next(6) as usize / 5, 1),
            pads_begin: flat(&mut || next(3) as usize, 0),
            pads_end: flat(&mut || next(3) as usize, 0),
        };
        let most = if axes == 3 { 6 } else { 20 };
        let spatial = flat(&mut || 5 + next(most) as usize, 1);
        let samples = 1 + next(3) as usize;
        let plane: usize = shape.output(spatial).unwrap().iter().product();
        let in_len = shape.in_channels * spatial.iter().product::<usize>();
        let out_len = shape.out_channels * plane;
        let mut values =
            |n: usize| -> Vec<f32> { (0..n).map(|_| next(2001) as f32 / 1000.0 - 1.0).collect() };
        let weight = values(shape.out_channels * shape.taps());
        let (x, dy) = (values(samples * in_len), values(samples * out_len));
        let (mut dw, mut dx) = (vec![1.0f64; weight.len()], vec![0.0f64; x.len()]);
        for sample in 0..samples {
            products(&shape, spatial, |oc, position, tap, index| {
                let slope = f64::from(dy[sample * out_len + oc * plane + position]);
                let (w, i) = (oc * shape.taps() + tap, sample * in_len + index);
                dw[w] += slope * f64::from(x[i]);
                dx[i] += slope * f64::from(weight[w]);
            });
        }
        for isa in isas() {
            let what = format!("{isa:?} {shape:?} over {spatial:?}");
            // Added to what is there.
            let mut sums = vec![1.0; weight.len()];
            let gradient = WeightGradient::for_isa(shape.clone(), isa);
            gradient.add(&x, &dy, samples, spatial, &mut sums).unwrap();
            close(&sums, &dw, &what);
            let gradient = InputGradient::for_isa(shape.clone(), &weight, spatial, isa).unwrap();
            close(&gradient.run(&dy, samples, None).unwrap(), &dx, &what);
        }
    }
}
