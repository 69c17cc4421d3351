use super::naive;
use crate::kernels::conv::{ConvShape, Spatial, plain};

struct Random(u64);

impl Random {
    fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        range.start + (self.0 >> 33) as usize % (range.end - range.start)
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.within(0..2001) as f32 / 1000.0 - 1.0).collect()
    }

    /// A convolution and the extents of its input.
    fn shape(&mut self, case: usize) -> (ConvShape, Spatial) {
        let groups = if case.is_multiple_of(3) { self.within(1..5) } else { 1 };
        let (wide_in, wide_out) = if case.is_multiple_of(6) { (2, 2) } else { (7, 20) };
        let mut shape = ConvShape {
            in_channels: groups * self.within(1..wide_in),
            out_channels: groups * self.within(1..wide_out),
            groups,
            kernel: [1; 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads_begin: [0; 3],
            pads_end: [0; 3],
        };
        let mut spatial = [1; 3];
        for axis in self.within(0..3)..3 {
            spatial[axis] = self.within(1..if axis == 2 { 30 } else { 9 });
            if !case.is_multiple_of(5) {
                shape.kernel[axis] = self.within(1..5);
                shape.dilations[axis] = self.within(1..4);
                shape.pads_begin[axis] = self.within(0..6);
                shape.pads_end[axis] = self.within(0..6);
            }
            if case.is_multiple_of(2) {
                shape.strides[axis] = self.within(1..4);
            }
        }
        (shape, spatial)
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

/// `<dy, conv(x, w)>` is linear in each of the three, so each gradient's product with its own
/// operand is the same number, and the forward pass gives it too.
#[test]
fn the_plain_kernel_is_the_definition_and_its_gradients_are_adjoint() {
    let mut random = Random(5);
    for case in 0..200 {
        let (shape, input) = random.shape(case);
        let Ok(output) = shape.output(input) else { continue };
        let weight = random.values(shape.out_channels * shape.taps());
        let x = random.values(shape.in_channels * input.iter().product::<usize>());
        let dy = random.values(shape.out_channels * output.iter().product::<usize>());
        let zeros = vec![0.0; shape.out_channels];
        let wanted = naive(&shape, &weight, &zeros, &x, input);
        let extents = [input, output];
        let (weight, x, dy) = (wide(&weight), wide(&x), wide(&dy));
        let mut y = vec![0.0; dy.len()];
        plain::forward(&shape, extents, &weight, &x, &mut y);
        for (i, (&wanted, &y)) in wanted.iter().zip(&y).enumerate() {
            let difference = (f64::from(wanted) - y).abs();
            assert!(difference <= 1e-5 * (1.0 + y.abs()), "{i}: {y}, not {wanted}: {shape:?}");
        }

        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        plain::data_gradient(&shape, extents, &weight, &dy, &mut dx);
        plain::weight_gradient(&shape, extents, &x, &dy, &mut dw);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let forward = dot(&dy, &y);
        assert!((dot(&dx, &x) - forward).abs() < 1e-9 * (1.0 + forward.abs()));
        assert!((dot(&dw, &weight) - forward).abs() < 1e-9 * (1.0 + forward.abs()));
    }
}
