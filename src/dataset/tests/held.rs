use super::*;
use crate::dataset::Arrays;

fn held(arrays: &Arrays, inputs: &[InputSpec]) -> Result<Dataset> {
    Dataset::held(arrays, Path::new("held"), inputs, None, &Preprocess::default())
}

fn floats_of(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|v| v as f32).collect::<Vec<_>>()).unwrap()
}

fn integers(values: &[i64]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
}

#[test]
fn names_count_as_in_an_archive() {
    let inputs = [spec("ids", DataType::F32, &[2]), spec("mask", DataType::F32, &[3])];
    let (ids, mask) = (floats_of(&[4, 2]), floats_of(&[4, 3]));
    let labels = integers(&[3, 1, 0, 2]);
    let named = |labels_name: &str| {
        let arrays = [("mask", mask.clone()), (labels_name, labels.clone()), ("ids", ids.clone())];
        Arrays::named(arrays.map(|(name, tensor)| (name.to_owned(), tensor)).into(), None)
    };
    let data = held(&named("y"), &inputs).unwrap();
    assert_eq!(data.all_labels(), Some(vec![3, 1, 0, 2]));
    let all: Vec<usize> = (0..4).collect();
    assert_eq!(data.batch(&all).unwrap(), [ids.clone(), mask.clone()]);
    assert_eq!((data.name(), data.len()), ("held".to_owned(), 4));
    assert!(!held(&named("extra"), &inputs).unwrap().has_labels());

    let ordered = Arrays::in_order(vec![ids, mask], Some(labels));
    let data = held(&ordered, &inputs).unwrap();
    assert!(data.has_labels() && data.batch(&all).unwrap()[0].shape() == [4, 2]);
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let one = Arrays::in_order(vec![floats_of(&[4, 2])], None);
    let text = refusal(held(&one, &[floats(&[2])[0].clone(), spec("b", DataType::F32, &[1])]));
    assert!(text.contains("1 arrays, the model has 2 inputs (x, b)"), "{text}");
    assert!(refusal(held(&one, &floats(&[5]))).contains("array 0 has shape [4, 2]"));
    let named = Arrays::named(vec![("z".to_owned(), floats_of(&[4, 2]))], None);
    let text = refusal(held(&named, &[floats(&[2])[0].clone(), spec("b", DataType::F32, &[1])]));
    assert!(text.contains("no array for input `x`") && text.contains("the data have z"), "{text}");
    let few = Arrays::in_order(vec![floats_of(&[4, 2])], Some(integers(&[1])));
    assert!(refusal(held(&few, &floats(&[2]))).contains("there are 4 samples"));
}

#[test]
fn the_same_samples_are_known_again() {
    let arrays = |last: f32| {
        Arrays::in_order(vec![Tensor::from_vec(&[2, 1], vec![1.0, last]).unwrap()], None)
    };
    assert!(arrays(2.0).is_same(&arrays(2.0)) && !arrays(2.0).is_same(&arrays(3.0)));
}
