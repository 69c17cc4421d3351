//! Folders of images, decoded when they are asked for.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, ImageReader, Luma};

use super::fit::guess;
use super::{InputSpec, Layout, Preprocess, Resize, form};
use crate::error::{Error, Result};

/// Endings that are taken for images.
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];
/// Folders inside a class folder that are followed; deeper ones are links in a circle.
const MAX_DEPTH: usize = 16;
/// Most pixels that an image is resized to on the way to a crop.
const MAX_PIXELS: u64 = 1 << 28;

/// The images of a folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub files: Vec<PathBuf>,
    /// Index of every file's class folder.
    pub labels: Option<Vec<i64>>,
    /// Names of the class folders.
    pub classes: Vec<String>,
}

/// Finds the images of a folder: one folder per class in sorted order, or images without labels.
///
/// # Errors
/// When there are none, or the subfolders are not classes.
pub(super) fn scan(path: &Path) -> Result<Folder> {
    let data = |reason: String| Error::Data { path: path.into(), reason };
    let (folders, files): (Vec<_>, Vec<_>) =
        form::folder(path)?.into_iter().partition(|p| p.is_dir());
    let loose: Vec<PathBuf> = files.into_iter().filter(|f| is_image(f)).collect();
    if folders.is_empty() {
        if loose.is_empty() {
            return Err(data(format!("the folder has no images ({})", ENDINGS.join(", "))));
        }
        return Ok(Folder { files: loose, labels: None, classes: Vec::new() });
    }
    let classes: Vec<String> = folders
        .iter()
        .filter_map(|f| f.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let is_split =
        |name: &String| matches!(name.to_lowercase().as_str(), "train" | "test" | "val" | "valid");
    if classes.iter().all(is_split) {
        return Err(data(format!(
            "its folders ({}) look like splits, not classes: give one of them",
            classes.join(", ")
        )));
    }
    if !loose.is_empty() {
        log::warn!("`{}`: {} images outside class folders, ignored", path.display(), loose.len());
    }
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    for (class, folder) in folders.iter().enumerate() {
        let before = files.len();
        collect(folder, 0, &mut files)?;
        if files.len() == before {
            log::warn!("`{}`: class folder without images", folder.display());
        }
        labels.resize(files.len(), class as i64);
    }
    if files.is_empty() {
        return Err(data(format!("its folders have no images ({})", ENDINGS.join(", "))));
    }
    Ok(Folder { files, labels: Some(labels), classes })
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::Data {
            path: folder.into(),
            reason: "folders are nested too deeply".to_owned(),
        });
    }
    for path in form::folder(folder)? {
        if path.is_dir() {
            collect(&path, depth + 1, files)?;
        } else if is_image(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// What images are decoded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub resize: Resize,
}

impl Frame {
    /// The frame that an input takes.
    ///
    /// # Errors
    /// When the input takes no images, or its size is open and not given.
    pub fn of(spec: &InputSpec, pre: &Preprocess) -> Result<Self> {
        let mismatch = |reason: &str| Error::DataMismatch {
            reason: format!("input `{}` takes {}: {reason}", spec.name, spec.text()),
        };
        let [_, dims @ ..] = spec.shape.as_slice() else {
            return Err(mismatch("that is no image"));
        };
        let layout = pre.layout.unwrap_or_else(|| guess(dims));
        let (channels, height, width) = match (dims, layout) {
            (&[c, h, w], Layout::Nchw) | (&[h, w, c], Layout::Nhwc) => (c.unwrap_or(3), h, w),
            _ => return Err(mismatch("images need an input of 4 dimensions")),
        };
        if !matches!(channels, 1 | 3 | 4) {
            return Err(mismatch("images have 1, 3 or 4 channels; is --layout right?"));
        }
        let (height, width) = match (pre.image_size, height, width) {
            (None, Some(h), Some(w)) => (h, w),
            (None, ..) => return Err(mismatch("its size is open, give --image-size")),
            (Some((h, w)), height, width) => {
                if height.is_some_and(|d| d != h) || width.is_some_and(|d| d != w) {
                    return Err(mismatch(&format!("--image-size {h}x{w} does not fit")));
                }
                (h, w)
            }
        };
        let in_range = |n: usize| n > 0 && n <= 1 << 14;
        if !in_range(height) || !in_range(width) {
            return Err(mismatch("images of that size can't be made"));
        }
        Ok(Self { height, width, channels, resize: pre.resize })
    }

    /// Bytes of a decoded image.
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The pixels of an image file, channels together.
    ///
    /// # Errors
    /// When it can't be read or decoded, or the crop is larger than the image.
    pub fn decode(&self, path: &Path) -> Result<Vec<u8>> {
        let data = |reason: String| Error::Data { path: path.into(), reason };
        let image = ImageReader::open(path)
            .and_then(ImageReader::with_guessed_format)
            .map_err(|source| Error::Read { path: path.into(), source })?
            .decode()
            .map_err(|e| data(format!("the image can't be decoded: {e}")))?;
        let image = match self.channels {
            1 => DynamicImage::ImageLuma8(grey(image)),
            3 => DynamicImage::ImageRgb8(image.into_rgb8()),
            _ => DynamicImage::ImageRgba8(image.into_rgba8()),
        };
        Ok(self.resize(image).map_err(data)?.into_bytes())
    }

    fn resize(&self, image: DynamicImage) -> Result<DynamicImage, String> {
        let (height, width) = (self.height as u32, self.width as u32);
        let shorter = match self.resize {
            Resize::Stretch => {
                if (image.height(), image.width()) == (height, width) {
                    return Ok(image);
                }
                return Ok(image.resize_exact(width, height, FilterType::Triangle));
            }
            Resize::Crop { shorter_side } => {
                let default = || ((height.min(width) as f64) / 0.875).round() as usize;
                shorter_side.unwrap_or_else(default) as u64
            }
        };
        let (h, w) = (u64::from(image.height()), u64::from(image.width()));
        let (h, w) = match h.min(w) {
            0 => return Err("the image has no pixels".to_owned()),
            least => (h * shorter / least, w * shorter / least),
        };
        if h.saturating_mul(w) > MAX_PIXELS {
            return Err(format!("{h} x {w} pixels are too many"));
        }
        let (h, w) = (h as u32, w as u32);
        if h < height || w < width {
            return Err(format!(
                "a crop of {height} x {width} does not fit into {h} x {w} pixels: raise the \
                 shorter side"
            ));
        }
        let image = if (image.height(), image.width()) == (h, w) {
            image
        } else {
            image.resize_exact(w, h, FilterType::Triangle)
        };
        Ok(image.crop_imm((w - width) / 2, (h - height) / 2, width, height))
    }
}

/// Grey values by the weights of ITU-R BT.601, which most image libraries use and this one's
/// decoder does not.
fn grey(image: DynamicImage) -> GrayImage {
    if let DynamicImage::ImageLuma8(image) = image {
        return image;
    }
    if !image.color().has_color() {
        return image.into_luma8();
    }
    let image = image.into_rgb8();
    GrayImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b] = image.get_pixel(x, y).0.map(u32::from);
        Luma([((299 * r + 587 * g + 114 * b + 500) / 1000) as u8])
    })
}
