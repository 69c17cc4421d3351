//! What is done to data on its way into a model.

use std::str::FromStr;

use crate::named::named;
use crate::tensor::DataType;

/// Preprocessing. The default scales bytes to 0..1 for inputs of floats and leaves all else as is.
///
/// Values become `(x * scale - mean) / std`: mean and std are in units after scaling. It applies to
/// inputs of floats only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preprocess {
    /// One value per channel of the model's input, in its order, or one for all, or none.
    pub mean: Vec<f32>,
    /// One value per channel of the model's input, in its order, or one for all, or none.
    pub std: Vec<f32>,
    /// Default: 1/255 for bytes and images, 1 for other data.
    pub scale: Option<f32>,
    /// Where the model's image input has its channels. Default: where its shape has 1, 3 or 4,
    /// before the height if that leaves a choice.
    pub layout: Option<Layout>,
    /// Height and width of images. Default: those of the model's input.
    pub image_size: Option<(usize, usize)>,
    /// How images of another size are brought to that size. Default: stretched.
    pub resize: Resize,
    /// In which order the model takes the channels of images. Default: RGB.
    pub channels: ChannelOrder,
    /// Axis of the class scores that labels are indices of, in the model's output and negative from
    /// the end; found by the shapes where there is none.
    pub class_axis: Option<isize>,
}

impl Preprocess {
    /// Whether values are to be changed in a way that was asked for.
    pub(super) fn is_explicit(&self) -> bool {
        self.scale.is_some() || !self.mean.is_empty() || !self.std.is_empty()
    }
}

/// Order of the axes of an image input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Batch, channels, height, width.
    Nchw,
    /// Batch, height, width, channels.
    Nhwc,
}

named!(Layout { Nchw = "nchw", Nhwc = "nhwc" });

/// Order of the channels of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first.
    Bgr,
}

named!(ChannelOrder { Rgb = "rgb", Bgr = "bgr" });

/// How an image is brought to the size that the model takes. Filters are linear and cover all
/// source pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// To that size, whatever becomes of its proportions.
    #[default]
    Stretch,
    /// In proportion, then the middle of it is taken.
    Crop {
        /// Pixels of the shorter side before the crop. Default: the crop's shorter side / 0.875, so
        /// 256 for 224.
        shorter_side: Option<usize>,
    },
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "stretch" => Ok(Self::Stretch),
            "crop" => Ok(Self::Crop { shorter_side: None }),
            other => match other.strip_prefix("crop:").map(str::parse) {
                Some(Ok(side @ 1..=16384)) => Ok(Self::Crop { shorter_side: Some(side) }),
                _ => Err(format!("`{text}` is none of `stretch`, `crop`, `crop:256`")),
            },
        }
    }
}

/// Whether an element type is a floating-point type.
pub(super) fn is_float(data_type: DataType) -> bool {
    matches!(data_type, DataType::F32 | DataType::F64 | DataType::F16 | DataType::BF16)
}
