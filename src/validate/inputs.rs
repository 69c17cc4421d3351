//! Shapes of inputs, and inputs where there is no data.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::graph::InputSpec;
use crate::tensor::{DataType, Tensor};

/// Elements of one random input, at most: a typing error in a shape should not fill the memory.
const MOST_ELEMENTS: usize = 1 << 28;

/// Sets the shapes given by name.
pub(super) fn apply_shapes(specs: &mut [InputSpec], shapes: &[(String, Vec<usize>)]) -> Result<()> {
    let refuse = |reason| Err(Error::Option { option: "--shape".to_owned(), reason });
    for (name, shape) in shapes {
        let names: Vec<String> = specs.iter().map(|s| format!("`{}`", s.name)).collect();
        let Some(spec) = specs.iter_mut().find(|spec| spec.name == *name) else {
            let names = names.join(", ");
            return refuse(format!("there is no input `{name}`; the model has {names}"));
        };
        let fits = spec.shape.len() == shape.len()
            && spec.shape.iter().zip(shape).all(|(has, given)| has.is_none_or(|d| d == *given));
        if !fits {
            let dims: Vec<String> = spec
                .shape
                .iter()
                .map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string()))
                .collect();
            return refuse(format!("input `{name}` is [{}], not {shape:?}", dims.join(", ")));
        }
        spec.shape = shape.iter().copied().map(Some).collect();
    }
    Ok(())
}

/// The shapes of inputs for one run: those given by name, else the model's with a batch of one
/// sample where it leaves the batch open.
///
/// # Errors
/// [`Error::Option`] for a shape that fits no input, and where other dims are open and no shape is
/// given.
pub fn concrete_shapes(
    specs: &[InputSpec],
    shapes: &[(String, Vec<usize>)],
) -> Result<Vec<(String, Vec<usize>)>> {
    let mut specs = specs.to_vec();
    apply_shapes(&mut specs, shapes)?;
    specs
        .into_iter()
        .map(|spec| {
            let mut dims = spec.shape.clone();
            if let Some(batch @ None) = dims.first_mut() {
                *batch = Some(1);
            }
            let concrete: Option<Vec<usize>> = dims.into_iter().collect();
            let shape = concrete.ok_or_else(|| Error::Option {
                option: "--shape".to_owned(),
                reason: format!(
                    "input `{0}` has open dims; give all of them, like --shape {0}={1}",
                    spec.name,
                    example(&spec.shape)
                ),
            })?;
            Ok((spec.name, shape))
        })
        .collect()
}

/// The shapes of [`concrete_shapes`] with `extent` for every dim that stays open but the batch.
///
/// # Errors
/// [`Error::Option`] for a shape that fits no input.
pub fn guessed_shapes(
    specs: &[InputSpec],
    shapes: &[(String, Vec<usize>)],
    extent: usize,
) -> Result<Vec<(String, Vec<usize>)>> {
    let mut specs = specs.to_vec();
    apply_shapes(&mut specs, shapes)?;
    let dims = |spec: InputSpec| {
        let open = |axis: usize| if axis == 0 { 1 } else { extent };
        let dims = spec.shape.iter().enumerate().map(|(axis, d)| d.unwrap_or(open(axis)));
        let dims = dims.collect();
        (spec.name, dims)
    };
    Ok(specs.into_iter().map(dims).collect())
}

/// `1x3xHxW`-like text with plausible numbers in the open places.
fn example(shape: &[Option<usize>]) -> String {
    let dims = shape.iter().enumerate();
    let dims = dims.map(|(axis, d)| d.unwrap_or(if axis == 0 { 1 } else { 64 }).to_string());
    dims.collect::<Vec<_>>().join("x")
}

/// Inputs of the given shapes for `specs`: floats spread evenly over -1 to 1, integers and truth
/// values 0 or 1, which is safe for indices, token types and masks.
///
/// # Errors
/// [`Error::Option`] for a shape with too many elements.
pub fn random_inputs(
    specs: &[InputSpec],
    shapes: &[(String, Vec<usize>)],
    seed: u64,
) -> Result<Vec<Tensor>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let shapes = concrete_shapes(specs, shapes)?;
    specs.iter().zip(&shapes).map(|(spec, (_, shape))| one(spec, shape, &mut random)).collect()
}

fn one(spec: &InputSpec, shape: &[usize], random: &mut ChaCha8Rng) -> Result<Tensor> {
    let refuse = |reason| Error::Option { option: "--shape".to_owned(), reason };
    let count = shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MOST_ELEMENTS)
        .ok_or_else(|| refuse(format!("{shape:?} for `{}` is too large", spec.name)))?;
    let mut bit = || random.next_u32() >> 31;
    macro_rules! bits {
        ($type:ty) => {
            Tensor::from_vec(shape, (0..count).map(|_| bit() as $type).collect::<Vec<_>>())
        };
    }
    let tensor = match spec.data_type {
        DataType::F32 | DataType::F64 | DataType::F16 | DataType::BF16 => {
            let mut real = || (f64::from(random.next_u32()) / f64::from(u32::MAX)) * 2.0 - 1.0;
            let reals: Vec<f64> = (0..count).map(|_| real()).collect();
            let reals = reals.into_iter();
            match spec.data_type {
                DataType::F64 => Tensor::from_vec(shape, reals.collect()),
                DataType::F16 => Tensor::from_vec(shape, reals.map(half::f16::from_f64).collect()),
                DataType::BF16 => {
                    Tensor::from_vec(shape, reals.map(half::bf16::from_f64).collect())
                }
                _ => Tensor::from_vec(shape, reals.map(|v| v as f32).collect()),
            }
        }
        DataType::I8 => bits!(i8),
        DataType::I16 => bits!(i16),
        DataType::I32 => bits!(i32),
        DataType::I64 => bits!(i64),
        DataType::U8 => bits!(u8),
        DataType::U16 => bits!(u16),
        DataType::U32 => bits!(u32),
        DataType::U64 => bits!(u64),
        DataType::Bool => Tensor::from_vec(shape, (0..count).map(|_| bit() == 1).collect()),
    };
    tensor.map_err(|e| refuse(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[Option<usize>]) -> InputSpec {
        InputSpec { name: "x".into(), data_type: DataType::F32, shape: shape.to_vec() }
    }

    #[test]
    fn shapes_must_fit() {
        let specs = [spec(&[None, Some(3), None])];
        let given = |name: &str, shape: &[usize]| vec![(name.to_owned(), shape.to_vec())];
        let ok = concrete_shapes(&specs, &given("x", &[2, 3, 5])).expect("a shape");
        assert_eq!(ok, given("x", &[2, 3, 5]));
        for bad in [given("y", &[2, 3, 5]), given("x", &[2, 4, 5]), given("x", &[2, 3])] {
            assert!(concrete_shapes(&specs, &bad).is_err());
        }
        let error = concrete_shapes(&specs, &[]).expect_err("open dims").to_string();
        assert!(error.contains("--shape x=1x3x64"), "{error}");
        assert_eq!(
            concrete_shapes(&[spec(&[None, Some(3)])], &[]).expect("a shape"),
            given("x", &[1, 3])
        );
    }

    #[test]
    fn random_inputs_are_seeded_and_bounded() {
        let specs = [spec(&[None, Some(100)])];
        let a = random_inputs(&specs, &[], 1).expect("inputs");
        assert_eq!(a, random_inputs(&specs, &[], 1).expect("inputs"));
        assert_ne!(a, random_inputs(&specs, &[], 2).expect("inputs"));
        assert!(a[0].to_f64_vec().iter().all(|v| (-1.0..=1.0).contains(v)));
        let huge = [spec(&[Some(1 << 40), Some(1 << 40)])];
        assert!(random_inputs(&huge, &[], 1).is_err());
    }
}
