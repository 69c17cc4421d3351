//! Values as they are typed.

use std::time::Duration;

use crate::compress::ProgramMetric;
use crate::factorize::Scheme;
use crate::options::RankMultiple;
use crate::score::MetricKind;
use crate::tune::Augmentation;

/// What models are judged by.
#[derive(Clone, Debug)]
pub enum Metric {
    /// A metric of samples.
    Samples(MetricKind),
    /// A program that is given files.
    File(ProgramMetric),
}

/// A metric's name, or `cmd:PROGRAM ARGS`.
pub fn metric(text: &str) -> Result<Metric, String> {
    match text.strip_prefix("cmd:") {
        Some(line) => line.parse().map(Metric::File),
        None => text.parse().map(Metric::Samples).map_err(|e| format!("{e}, cmd:PROGRAM")),
    }
}

/// `8` and `8x`, more than 1.
pub fn ratio(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix(['x', 'X']).unwrap_or(text);
    let ratio: f64 = number.parse().map_err(|_| "not a number, like `8` or `2.5x`".to_owned())?;
    if ratio > 1.0 && ratio.is_finite() {
        Ok(ratio)
    } else {
        Err("must be more than 1: `8` makes the model 8 times smaller".to_owned())
    }
}

/// Seconds, or a number with `s`, `m` or `h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, seconds) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1.0),
        Some(b'm') => (&text[..text.len() - 1], 60.0),
        Some(b'h') => (&text[..text.len() - 1], 3600.0),
        _ => (text, 1.0),
    };
    number
        .parse()
        .ok()
        .filter(|&n: &f64| n > 0.0)
        .and_then(|n| Duration::try_from_secs_f64(n * seconds).ok())
        .ok_or_else(|| "not a time, like `90`, `90s` or `2m`".to_owned())
}

/// Bytes, or a number with `K`, `M` or `G`: thousands, millions, milliards of them.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        Some(b'G') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let bytes = number.parse().ok().map(|n: f64| n * unit);
    bytes
        .filter(|n| (1.0..1e15).contains(n))
        .map(|n| n as usize)
        .ok_or_else(|| "not a number of bytes, like `64M` or `1G`".to_owned())
}

/// A number of weights that share a scale.
pub fn block(text: &str) -> Result<usize, String> {
    let block =
        text.parse().ok().filter(|&n: &usize| n.is_power_of_two() && (16..=256).contains(&n));
    block.ok_or_else(|| "must be 16, 32, 64, 128 or 256".to_owned())
}

/// `NAME=1x3x224x224`.
pub fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let parts = text.rsplit_once('=').filter(|(name, _)| !name.is_empty());
    parts
        .and_then(|(name, dims)| Some((name.to_owned(), sizes(dims)?)))
        .ok_or_else(|| "not a name and its shape, like `input=1x3x224x224`".to_owned())
}

/// `224`, or height and width as in `480x640`.
pub fn image_size(text: &str) -> Result<(usize, usize), String> {
    match sizes(text).as_deref() {
        Some(&[side]) => Ok((side, side)),
        Some(&[height, width]) => Ok((height, width)),
        _ => Err("not a size, like `224`, or height and width like `480x640`".to_owned()),
    }
}

fn sizes(text: &str) -> Option<Vec<usize>> {
    text.split(['x', 'X', ',']).map(|d| d.trim().parse().ok().filter(|&d| d > 0)).collect()
}

/// `none`, or some of `flip` and `shift` with commas between.
pub fn augmentation(text: &str) -> Result<Augmentation, String> {
    let mut augmentation = Augmentation::default();
    for word in text.split(',').map(str::trim).filter(|word| *word != "none") {
        match word {
            "flip" => augmentation.flip = true,
            "shift" => augmentation.shift = Augmentation::SHIFT,
            _ => return Err("not `none`, `flip`, `shift` or `flip,shift`".to_owned()),
        }
    }
    Ok(augmentation)
}

/// A number from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|v| (0.0..=1.0).contains(v));
    value.ok_or_else(|| "not a number from 0 to 1".to_owned())
}

/// A finite number above zero.
pub fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|&v: &f64| v > 0.0 && v.is_finite());
    value.ok_or_else(|| "not a number above 0".to_owned())
}

/// A whole number of at least 1.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| "not a whole number of at least 1".to_owned())
}

/// What layers may become.
#[derive(Clone, Debug)]
pub struct Schemes(pub Vec<Scheme>);

/// Schemes by their names, or `none`.
pub fn schemes(text: &str) -> Result<Schemes, String> {
    if text == "none" {
        return Ok(Schemes(Vec::new()));
    }
    text.split(',').map(str::parse).collect::<Result<_, _>>().map(Schemes)
}

/// A step of ranks: a whole number of at least 1, or `auto`.
pub fn rank_multiple(text: &str) -> Result<RankMultiple, String> {
    if text == "auto" {
        return Ok(RankMultiple::Auto);
    }
    at_least_one(text).map(RankMultiple::Of).map_err(|reason| format!("{reason}, nor `auto`"))
}

/// A number that is not negative.
pub fn not_negative(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|&n: &f64| n >= 0.0 && n.is_finite())
        .ok_or_else(|| "not a number of at least 0".to_owned())
}

/// A finite number.
pub fn finite(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|n: &f32| n.is_finite()).ok_or_else(|| "not a number".to_owned())
}

/// A finite number that is not zero, for a divisor.
pub fn divisor(text: &str) -> Result<f32, String> {
    match finite(text)? {
        0.0 => Err("must not be 0".to_owned()),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios() {
        assert_eq!(ratio("8"), Ok(8.0));
        assert_eq!(ratio("8x"), Ok(8.0));
        assert_eq!(ratio("1.5X"), Ok(1.5));
        for bad in ["1", "0.5", "NaN", "inf", "-2", "x", "", "8xx"] {
            assert!(ratio(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90.0), ("90s", 90.0), ("2m", 120.0), ("0.5h", 1800.0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)));
        }
        for bad in ["", "s", "0", "-1", "1d", "NaN", "1e300h", "é"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shapes_and_sizes() {
        assert_eq!(shape("a=b:0=1x3"), Ok(("a=b:0".to_owned(), vec![1, 3])));
        for bad in ["1x3", "=1x3", "a=", "a=1x", "a=0", "a=-1x3"] {
            assert!(shape(bad).is_err(), "{bad}");
        }
        assert_eq!(image_size("224"), Ok((224, 224)));
        assert_eq!(image_size("480x640"), Ok((480, 640)));
        assert!(image_size("1x2x3").is_err());
    }
}
