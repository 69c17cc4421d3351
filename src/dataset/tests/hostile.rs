use std::fs;
use std::io::Write;

use super::*;

#[test]
fn element_types_that_are_no_numbers_are_refused() {
    for (name, reason) in [
        ("object.npy", "pickled"),
        ("text.npy", "text"),
        ("structured.npy", "structured"),
        ("complex.npy", "`<c8`"),
    ] {
        let text = refusal(open(&fixture(name), &floats(&[1])));
        assert!(text.contains(reason) && text.contains(name), "{text}");
    }
}

#[test]
fn files_cut_short_anywhere_are_errors() {
    let dir = folder();
    let idx = [&[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 24][..], &[7; 48]].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&idx).unwrap();
    let whole: [(&str, Vec<u8>); 6] = [
        ("a.npz", fs::read(fixture("stored.npz")).unwrap()),
        ("b.npz", fs::read(fixture("compressed.npz")).unwrap()),
        ("a.npy", fs::read(fixture("fortran.npy")).unwrap()),
        ("b.npy", fs::read(fixture("big-endian.npy")).unwrap()),
        ("a-idx2-ubyte", idx),
        ("a-idx2-ubyte.gz", gzip.finish().unwrap()),
    ];
    for (name, bytes) in whole {
        for length in 0..bytes.len() {
            let path = write(&dir, name, &bytes[..length]);
            let dims: &[usize] = match name {
                "a.npz" | "b.npz" => &[3, 2, 2],
                "a.npy" | "b.npy" => &[3, 4],
                _ => &[24],
            };
            assert!(open(&path, &floats(dims)).is_err(), "{name} {length}");
        }
    }
}

#[test]
fn changed_bytes_never_panic() {
    let dir = folder();
    for (name, dims) in
        [("stored.npz", &[3, 2, 2][..]), ("compressed.npz", &[3, 2, 2]), ("fortran.npy", &[3, 4])]
    {
        let bytes = fs::read(fixture(name)).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let path = write(&dir, name, &changed);
                if let Ok(data) = open(&path, &floats(dims)) {
                    let _ = data.batch(&[0]);
                }
            }
        }
    }
}

#[test]
fn lying_shapes_allocate_nothing() {
    let dir = folder();
    for shape in [
        "(1000000000000, 4)",
        "(18446744073709551615, 18446744073709551615)",
        "(4611686018427387904, 4)",
        "(99999999999999999999999, 4)",
        "(-1, 4)",
        "(1, 4",
        "(3, 4)",
    ] {
        let path = write(&dir, "a.npy", &npy("<f4", false, shape, &f32_bytes(&[1.0; 4])));
        assert!(!refusal(open(&path, &floats(&[4]))).is_empty());
    }
    let surplus = write(&dir, "a.npy", &npy("<f4", false, "(1, 2)", &f32_bytes(&[1.0; 4])));
    assert!(refusal(open(&surplus, &floats(&[2]))).contains("more than its shape"));
    let empty = write(&dir, "a.npy", &npy("<f4", false, "(0, 4)", &[]));
    assert!(refusal(open(&empty, &floats(&[4]))).contains("empty"));
    let idx = [&[0, 0, 8, 3][..], &[0xff; 12], &[1]].concat();
    let path = write(&dir, "idx", &idx);
    assert!(refusal(open(&path, &floats(&[4]))).contains("too large"));
    let idx = [&[0, 0, 8, 2, 0, 0x40, 0, 0, 0, 0, 0, 4][..], &[1]].concat();
    let path = write(&dir, "idx", &idx);
    assert!(refusal(open(&path, &floats(&[4]))).contains("promises"));
    let header = [b"\x93NUMPY\x02\x00".as_slice(), &[0xff; 4], b"{"].concat();
    let path = write(&dir, "a.npy", &header);
    assert!(refusal(open(&path, &floats(&[4]))).contains("damaged"));
}

#[test]
fn archives_whose_arrays_lie_are_refused() {
    let dir = folder();
    let archive = |entries: &[(&str, Vec<u8>)]| {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        write(&dir, "a.npz", &zip.finish().unwrap().into_inner())
    };
    let four = f32_bytes(&[1.0; 4]);
    let huge = archive(&[("x.npy", npy("<f4", false, "(1000000000, 4)", &four))]);
    let text = refusal(open(&huge, &floats(&[4])));
    assert!(text.contains("takes 16000000000 bytes, but holds 16"), "{text}");
    let one = npy("<f4", false, "(1, 4)", &four);
    let two = npy("<f4", false, "(2, 2)", &four);
    let path = archive(&[("x.npy", one.clone()), ("y.npy", two.clone())]);
    assert!(refusal(open(&path, &floats(&[4]))).contains("labels have shape [2, 2]"));
    let pair = [spec("x", DataType::F32, &[4]), spec("w", DataType::F32, &[2])];
    let path = archive(&[("x.npy", one.clone()), ("w.npy", two)]);
    assert!(refusal(open(&path, &pair)).contains("`x` has 1 samples, `w` has 2"));
    // Arrays that nobody asks for may be of any kind.
    let object = fs::read(fixture("object.npy")).unwrap();
    let path = archive(&[("x.npy", one), ("notes.npy", object), ("readme.txt", vec![1])]);
    assert_eq!(open(&path, &floats(&[4])).unwrap().len(), 1);
    assert!(refusal(open(&archive(&[]), &floats(&[4]))).contains("has none"));
}

#[test]
fn what_is_no_data_is_refused() {
    let dir = folder();
    let empty = write(&dir, "empty.npz", &[]);
    assert!(refusal(open(&empty, &floats(&[4]))).contains("empty"));
    let noise = write(&dir, "noise.npz", b"\x12\x34\x56\x78 and so on");
    assert!(refusal(open(&noise, &floats(&[4]))).contains("none of"));
    assert!(matches!(open(&dir.path().join("absent"), &floats(&[4])), Err(Error::Read { .. })));
    assert!(refusal(open(&fixture("stored.npz"), &[])).contains("no inputs"));
}
