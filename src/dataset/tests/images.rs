use image::{Rgb, RgbImage};

use super::*;
use crate::dataset::{Layout, Resize};

fn picture(dir: &tempfile::TempDir, name: &str, width: u32, height: u32) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| Rgb([(x * 10) as u8, (y * 10) as u8, 200]);
    RgbImage::from_fn(width, height, pixel)
        .save_with_format(&path, image::ImageFormat::Png)
        .unwrap();
    path
}

#[test]
fn class_folders_give_labels_in_sorted_order() {
    let dir = folder();
    picture(&dir, "zebra/1.png", 2, 2);
    picture(&dir, "ant/deep/er/2.PNG", 2, 2);
    picture(&dir, "ant/1.jpeg", 2, 2);
    picture(&dir, "bee/.hidden.png", 2, 2);
    picture(&dir, ".cache/1.png", 2, 2);
    write(&dir, "ant/notes.txt", b"no image");
    let data = open(dir.path(), &floats(&[3, 2, 2])).unwrap();
    assert_eq!(data.classes(), ["ant", "bee", "zebra"]);
    assert_eq!(data.all_labels(), Some(vec![0, 0, 2]));
    let batch = data.batch(&[2]).unwrap().remove(0);
    let byte = |v: f64| f64::from((v / 255.0) as f32);
    let expected = [0.0, 10.0, 0.0, 10.0, 0.0, 0.0, 10.0, 10.0, 200.0, 200.0, 200.0, 200.0];
    assert_eq!(values(&batch), expected.map(byte));
    let last = all(&open(dir.path(), &floats(&[2, 2, 3])).unwrap());
    assert_eq!(values(&last)[..6], [0.0, 0.0, 200.0, 10.0, 0.0, 200.0].map(byte));
    let bytes = open(dir.path(), &[spec("x", DataType::U8, &[3, 2, 2])]).unwrap();
    assert_eq!(values(&bytes.batch(&[0]).unwrap()[0]), expected);
}

#[test]
fn a_flat_folder_has_no_labels() {
    let dir = folder();
    picture(&dir, "b.png", 2, 2);
    picture(&dir, "a.png", 2, 2);
    let data = open(dir.path(), &floats(&[3, 2, 2])).unwrap();
    assert_eq!((data.len(), data.has_labels()), (2, false));
    let labels = write(&dir, "y.npy", &npy("|u1", false, "(2,)", &[1, 0]));
    let pre = Preprocess::default();
    let data = Dataset::open(dir.path(), &floats(&[3, 2, 2]), Some(&labels), &pre).unwrap();
    assert_eq!(data.all_labels(), Some(vec![1, 0]));
}

#[test]
fn grey_inputs_take_the_luma() {
    let dir = folder();
    picture(&dir, "a.png", 2, 1);
    let raw = Preprocess { scale: Some(1.0), ..Default::default() };
    let data = Dataset::open(dir.path(), &floats(&[1, 1, 2]), None, &raw).unwrap();
    assert_eq!(values(&all(&data)), [23.0, 26.0]);
}

#[test]
fn other_sizes_are_stretched_or_cropped() {
    let dir = folder();
    picture(&dir, "a.png", 8, 4);
    let raw = Preprocess { scale: Some(1.0), ..Default::default() };
    let with = |pre: &Preprocess, dims: &[usize]| {
        Dataset::open(dir.path(), &floats(dims), None, pre)
            .map(|d| d.batch(&[0]).unwrap().remove(0))
    };
    let stretched = values(&with(&raw, &[3, 2, 2]).unwrap());
    // A linear filter that covers all pixels: 0 10 .. 70 becomes about 20 and 50.
    assert!(
        (stretched[0] - 20.0).abs() < 2.0 && (stretched[1] - 50.0).abs() < 2.0,
        "{stretched:?}"
    );
    let crop = Preprocess { resize: "crop:4".parse().unwrap(), ..raw.clone() };
    assert_eq!(values(&with(&crop, &[3, 2, 2]).unwrap())[..4], [30.0, 40.0, 30.0, 40.0]);
    // By default 7/8 of the shorter side remain.
    let seven = Preprocess { resize: Resize::Crop { shorter_side: None }, ..raw.clone() };
    picture(&dir, "a.png", 8, 8);
    assert_eq!(values(&with(&seven, &[3, 7, 7]).unwrap())[..2], [0.0, 10.0]);
    let sized = Preprocess { image_size: Some((2, 2)), ..raw.clone() };
    assert_eq!(with(&sized, &[3, 0, 0]).unwrap().shape(), [1, 3, 2, 2]);
    assert!(refusal(with(&raw, &[3, 0, 0])).contains("--image-size"));
    assert!(refusal(with(&sized, &[3, 4, 4])).contains("does not fit"));
    assert!(refusal(with(&raw, &[7, 5, 5])).contains("--layout"));
    assert!(refusal(with(&raw, &[12])).contains("4 dimensions"));
    let open_dims = Preprocess { layout: Some(Layout::Nhwc), ..sized };
    assert_eq!(with(&open_dims, &[0, 0, 0]).unwrap().shape(), [1, 2, 2, 3]);
    let small = Preprocess { resize: "crop:2".parse().unwrap(), ..raw };
    let data = Dataset::open(dir.path(), &floats(&[3, 4, 4]), None, &small).unwrap();
    assert!(refusal(data.batch(&[0])).contains("does not fit into 2 x 2"));
}

#[test]
fn folders_that_are_no_classes_are_refused() {
    let dir = folder();
    assert!(refusal(open(dir.path(), &floats(&[3, 2, 2]))).contains("no images"));
    picture(&dir, "train/a/1.png", 2, 2);
    picture(&dir, "test/a/1.png", 2, 2);
    assert!(refusal(open(dir.path(), &floats(&[3, 2, 2]))).contains("splits"));
    let two = [spec("x", DataType::F32, &[3, 2, 2]), spec("y", DataType::F32, &[1])];
    assert!(refusal(open(dir.path(), &two)).contains("feeds one input"));
}

#[test]
fn damaged_images_are_named() {
    let dir = folder();
    let path = picture(&dir, "a.png", 9, 9);
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 8, 20, bytes.len() / 2] {
        write(&dir, "a.png", &bytes[..length]);
        let data = open(dir.path(), &floats(&[3, 9, 9])).unwrap();
        assert!(refusal(data.batch(&[0])).contains("a.png"));
    }
    write(&dir, "a.png", b"plain text");
    let data = open(dir.path(), &floats(&[3, 9, 9])).unwrap();
    assert!(refusal(data.batch(&[0])).contains("can't be decoded"));
}
