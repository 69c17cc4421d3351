//! Places that can't be written to, from the start or from some moment on: one clear message, and what
//! was there stays.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_onnx-bsr");

/// What stands at every place that is to be written.
const OLD: &[u8] = b"what was there before";

/// A folder with results of an earlier run.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir().unwrap());
        for name in ["out.onnx", "plan.json"] {
            fs::write(ground.path(name), OLD).unwrap();
        }
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Nothing was replaced, and nothing is left beside it.
    fn untouched(&self) {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["out.onnx", "plan.json"]);
        for name in names {
            assert_eq!(fs::read(self.path(&name)).unwrap(), OLD, "{name}");
        }
    }
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mnist_conv.onnx")
}

/// Ended with 1 and a message that names `part`, without a panic.
fn refused(output: &Output, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: ") && text.contains(part), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// Runs the program with a shell's limit on the length of files, which fails writes as a full disk does.
fn limited(blocks: usize, arguments: &[&Path]) -> Output {
    Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f "$1"; shift; exec "$@""#, "sh"])
        .arg(blocks.to_string())
        .arg(PROGRAM)
        .args(arguments)
        .args(["--ratio", "4", "--quiet", "--force"])
        .output()
        .unwrap()
}

#[test]
fn a_disk_that_fills_up_leaves_the_old_files() {
    let ground = Ground::new();
    let (out, plan) = (ground.path("out.onnx"), ground.path("plan.json"));
    let arguments = [&model(), &out, Path::new("--save-plan"), &plan];
    for blocks in [0, 1, 64] {
        refused(&limited(blocks, &arguments), "out.onnx");
        ground.untouched();
    }
    // The model fits, the plan, which holds its factors as text, doesn't.
    let output = limited(450, &arguments);
    refused(&output, "plan.json");
    assert_eq!(fs::read(&plan).unwrap(), OLD);
    assert!(onnx_bsr::onnx::Model::read(&out).is_ok());
    fs::write(&out, OLD).unwrap();
    ground.untouched();
}

/// The same on a real file system, where the system lets one be mounted.
#[test]
fn a_small_file_system_leaves_the_old_files() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        mount -t tmpfs -o size=128k none "$1" || exit 77
        cd "$1" && echo old > out.onnx && echo old > plan.json
        "$2" "$3" out.onnx --ratio 4 --quiet --force --save-plan plan.json
        code=$?
        ls -A
        cat out.onnx plan.json
        cd /; umount "$1"
        exit $code"#;
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .args([Path::new(PROGRAM), &model()])
        .output();
    match output {
        Ok(output) if output.status.code() == Some(1) && !output.stdout.is_empty() => {
            refused(&output, "out.onnx");
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                text.split_whitespace().collect::<Vec<_>>(),
                ["out.onnx", "plan.json", "old", "old"]
            );
        }
        other => println!("no file system could be mounted: {other:?}"),
    }
}

#[test]
fn places_that_cant_be_written_are_named() {
    let ground = Ground::new();
    let run = |arguments: &[&str]| {
        let command = &mut Command::new(PROGRAM);
        command.current_dir(ground.0.path()).arg(model()).args(arguments);
        command.args(["--ratio", "4", "--quiet", "--force"]).output().unwrap()
    };
    refused(&run(&["/dev/full"]), "/dev/full");
    refused(&run(&["/proc/out.onnx"]), "/proc/out.onnx");
    refused(&run(&["absent/out.onnx"]), "absent/out.onnx");
    refused(&run(&["out.onnx/inside.onnx"]), "out.onnx/inside.onnx");
    for option in ["--save-plan", "--report"] {
        refused(&run(&["out.onnx", option, "/dev/full"]), "/dev/full");
    }
    let data = model().with_file_name("mnist_heldout.npz");
    let data = data.to_str().unwrap();
    let training = ["out.onnx", "--data", data, "--train", data, "--resume", "/dev/full"];
    refused(&run(&training), "/dev/full");
    refused(&run(&["out.onnx", "--save-plan", "absent/plan.json"]), "absent/plan.json");
    assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    ground.untouched();
}

#[test]
fn a_full_stdout_is_an_error() {
    for arguments in [&["inspect"][..], &["inspect", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg(model()).stdout(full).stderr(Stdio::piped());
        refused(&command.output().unwrap(), "stdout");
    }
}

/// The metric is run on the staged file: the last moment before the result takes its place.
#[test]
fn a_target_that_becomes_unwritable_leaves_the_old_files() {
    for (change, undo) in [
        // A folder where the output is to be.
        ("mv out.onnx kept && mkdir out.onnx", "rmdir out.onnx && mv kept out.onnx"),
        // Nothing where the output's folder was.
        ("cd .. && mv place elsewhere", "mv ../elsewhere ../place"),
    ] {
        let around = tempfile::tempdir().unwrap();
        let place = around.path().join("place");
        fs::create_dir(&place).unwrap();
        for name in ["out.onnx", "plan.json"] {
            fs::write(place.join(name), OLD).unwrap();
        }
        let script = around.path().join("metric.sh");
        let text = format!(
            "#!/bin/sh\ncase \"$1\" in *mnist_conv.onnx) ;; *) cd '{}' && {change} ;; esac\necho 1\n",
            place.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new(PROGRAM)
            .arg(model())
            .arg(place.join("out.onnx"))
            .arg("--save-plan")
            .arg(place.join("plan.json"))
            .args(["--ratio", "4", "--quiet", "--force", "--metric"])
            .arg(format!("cmd:{}", script.display()))
            .output()
            .unwrap();
        refused(&output, "out.onnx");
        let undo = undo.replace("../", &format!("{}/", around.path().display()));
        let script = format!("cd '{}' 2> /dev/null; {undo}", place.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        for name in ["out.onnx", "plan.json"] {
            assert_eq!(fs::read(place.join(name)).unwrap(), OLD, "{name} after {change}");
        }
        // What was staged can't be removed where its folder has another name.
        if !change.contains("elsewhere") {
            let left = fs::read_dir(&place).unwrap().count();
            assert_eq!(left, 2, "staged files are left after {change}");
        }
    }
}
