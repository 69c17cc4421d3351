//! The learning rate over a training.

/// Linear warm-up, then half a cosine down to a share of the peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// Share of the steps spent on warming up.
    pub warm_up: f64,
    /// The last rate, as a share of the peak.
    pub end: f64,
}

impl Schedule {
    /// The rate after `progress`, from 0 at the start to 1 at the end.
    #[must_use]
    pub fn rate(&self, progress: f64) -> f64 {
        let progress = progress.clamp(0.0, 1.0);
        if progress < self.warm_up {
            return self.peak * (progress / self.warm_up).max(0.02);
        }
        let rest = (progress - self.warm_up) / (1.0 - self.warm_up).max(f64::MIN_POSITIVE);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * rest).cos());
        self.peak * (self.end + (1.0 - self.end) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls() {
        let schedule = Schedule { peak: 0.1, warm_up: 0.1, end: 0.01 };
        assert!(schedule.rate(0.0) > 0.0 && schedule.rate(0.0) < 0.01);
        assert!((schedule.rate(0.05) - 0.05).abs() < 1e-12);
        assert!((schedule.rate(0.1) - 0.1).abs() < 1e-12);
        assert!((schedule.rate(0.55) - 0.0505).abs() < 1e-12);
        assert!((schedule.rate(1.0) - 0.001).abs() < 1e-12);
        assert!((schedule.rate(2.0) - 0.001).abs() < 1e-12);
    }
}
