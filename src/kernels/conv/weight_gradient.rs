//! The gradient of a convolution's weights: for every output channel and tap the product of the
//! output's gradient with what the tap reads, summed over positions and samples.
//!
//! Inputs are copied into the same images as for the convolution itself. A few output channels times
//! a few taps have their sums in registers, lane by lane, over all vectors of several samples; lanes
//! are added up at the end.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::layout::{Image, fill};
use super::outer::Outer;
use super::tile::lane_count;
use super::{ConvShape, Spatial};
use crate::error::OpError;
use crate::kernels::lanes::{Isa, Lanes, Part, Portable};

/// Bytes that the images of samples summed over together take at most: well within the second-level
/// cache.
const IMAGES_BYTES: usize = 384 << 10;

thread_local! {
    static IMAGES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// d loss / d weight of a convolution.
#[derive(Clone, Debug)]
pub struct WeightGradient {
    shape: ConvShape,
    isa: Isa,
    last: Arc<Mutex<Option<Arc<Layout>>>>,
}

/// How the gradient is computed for inputs of some extents, whichever takes less.
#[derive(Debug)]
enum Layout {
    /// Sums lane by lane, for few channels.
    Lanes(Image),
    /// Sums of outer products.
    Outer(Outer),
}

impl Layout {
    fn new(shape: &ConvShape, spatial: Spatial, isa: Isa) -> Result<Self, OpError> {
        let lanes = lane_count(isa);
        let output = shape.output(spatial)?;
        let plane: usize = output.iter().product();
        let outer = Outer::new(shape, spatial, output, isa);
        // Products, and adding up every sum's lanes for a few samples.
        let sums = shape.group_out() * shape.taps();
        let products = plane.div_ceil(lanes) * sums * 3 / 2 + sums * lanes / 2;
        if outer.cost(shape) <= products {
            return Ok(Self::Outer(outer));
        }
        Ok(Self::Lanes(Image::new(shape, spatial, lanes)?))
    }

    fn spatial(&self) -> Spatial {
        match self {
            Self::Lanes(image) => image.spatial,
            Self::Outer(outer) => outer.spatial,
        }
    }
}

/// One group of a few samples.
struct Job<'a> {
    image: &'a Image,
    /// For every sample its image, or its input where that is not copied.
    data: Vec<*const f32>,
    /// For every sample the group's channels of the output's gradient.
    gradients: Vec<*const f32>,
    plane_out: usize,
    /// Output channels of the group.
    rows: usize,
    out: &'a mut [f32],
}

impl WeightGradient {
    /// For convolutions of this shape.
    #[must_use]
    pub fn new(shape: ConvShape) -> Self {
        Self::for_isa(shape, Isa::detect())
    }

    pub(crate) fn for_isa(shape: ConvShape, isa: Isa) -> Self {
        Self { shape, isa, last: Arc::default() }
    }

    /// Adds the gradient to `out` `[out_channels, group_in, kernel..]`, for inputs `x`
    /// `[samples, in_channels, spatial..]` and the gradient `dy`
    /// `[samples, out_channels, output spatial..]` of the outputs.
    ///
    /// # Errors
    /// When a slice's length doesn't match or the kernel is larger than the input.
    pub fn add(
        &self,
        x: &[f32],
        dy: &[f32],
        samples: usize,
        spatial: Spatial,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        let shape = &self.shape;
        let plane_out: usize = shape.output(spatial)?.iter().product();
        let in_len = shape.in_channels * spatial.iter().product::<usize>();
        let out_len = shape.out_channels * plane_out;
        if x.len() != samples * in_len
            || dy.len() != samples * out_len
            || out.len() != shape.out_channels * shape.taps()
        {
            return Err(OpError::shape("convolution gradient over slices of unexpected length"));
        }
        if samples == 0 || out_len == 0 {
            return Ok(());
        }
        let layout = self.layout(spatial)?;
        let (group_in, group_out) = (in_len / shape.groups, out_len / shape.groups);
        let image = match &*layout {
            Layout::Lanes(image) => image,
            Layout::Outer(outer) => {
                let parts = out.chunks_exact_mut(shape.group_out() * shape.taps());
                for (group, out) in parts.enumerate() {
                    let x = |sample| &x[sample * in_len + group * group_in..][..group_in];
                    let dy = |sample| &dy[sample * out_len + group * group_out..][..group_out];
                    outer.add(shape, samples, x, dy, out);
                }
                return Ok(());
            }
        };
        let together = (IMAGES_BYTES / 4 / image.len.max(1)).clamp(1, samples);
        IMAGES.with_borrow_mut(|images| {
            let needed = if image.is_input { 0 } else { image.len * together };
            if images.len() < needed {
                images.resize(needed, 0.0);
            }
            for start in (0..samples).step_by(together) {
                let range = start..(start + together).min(samples);
                for (group, out) in
                    out.chunks_exact_mut(shape.group_out() * shape.taps()).enumerate()
                {
                    let mut job = Job {
                        image,
                        data: Vec::new(),
                        gradients: Vec::new(),
                        plane_out,
                        rows: shape.group_out(),
                        out,
                    };
                    for (place, sample) in range.clone().enumerate() {
                        let input = &x[sample * in_len + group * group_in..][..group_in];
                        let gradient = &dy[sample * out_len + group * group_out..][..group_out];
                        job.gradients.push(gradient.as_ptr());
                        if image.is_input {
                            job.data.push(input.as_ptr());
                        } else {
                            let to = &mut images[place * image.len..][..image.len];
                            self.copy(image, input, to);
                            job.data.push(to.as_ptr());
                        }
                    }
                    self.sum(job);
                }
            }
        });
        Ok(())
    }

    fn layout(&self, spatial: Spatial) -> Result<Arc<Layout>, OpError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = &*last
            && layout.spatial() == spatial
        {
            return Ok(layout.clone());
        }
        let layout = Arc::new(Layout::new(&self.shape, spatial, self.isa)?);
        *last = Some(layout.clone());
        Ok(layout)
    }

    fn copy(&self, image: &Image, input: &[f32], to: &mut [f32]) {
        let shape = &self.shape;
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the variant is only made on a processor that has the instructions; the
            // slices have the image's lengths.
            Isa::Avx512 => unsafe { copy_avx512(shape, image, input, to.as_mut_ptr()) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { copy_avx2(shape, image, input, to.as_mut_ptr()) },
            // SAFETY: plain code.
            Isa::Portable => unsafe { fill::<Portable>(shape, image, input, to.as_mut_ptr()) },
        }
    }

    fn sum(&self, job: Job<'_>) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the variant is only made on a processor that has the instructions.
            Isa::Avx512 => unsafe { sum_avx512(job) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { sum_avx2(job) },
            // SAFETY: plain code.
            Isa::Portable => unsafe { job.blocks::<Portable, 2, 3, 5, 10>() },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn copy_avx512(shape: &ConvShape, image: &Image, input: &[f32], to: *mut f32) {
    unsafe { fill::<__m512>(shape, image, input, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn copy_avx2(shape: &ConvShape, image: &Image, input: &[f32], to: *mut f32) {
    unsafe { fill::<__m256>(shape, image, input, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn sum_avx512(job: Job<'_>) {
    unsafe { job.blocks::<__m512, 6, 8, 10, 12>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn sum_avx2(job: Job<'_>) {
    unsafe { job.blocks::<__m256, 2, 3, 5, 10>() }
}

/// Output channels whose sums are in registers together, at most.
const ROWS: usize = 4;

impl Job<'_> {
    /// All sums; `T4` taps go with four output channels, and so on: as many as the registers hold.
    #[inline(always)]
    unsafe fn blocks<
        V: Lanes,
        const T4: usize,
        const T3: usize,
        const T2: usize,
        const T1: usize,
    >(
        mut self,
    ) {
        let count = self.rows.div_ceil(ROWS);
        for block in 0..count {
            let (row, end) = (self.rows * block / count, self.rows * (block + 1) / count);
            // SAFETY: as the caller vouches.
            unsafe {
                match end - row {
                    4 => self.taps::<V, 4, T4>(row),
                    3 => self.taps::<V, 3, T3>(row),
                    2 => self.taps::<V, 2, T2>(row),
                    _ => self.taps::<V, 1, T1>(row),
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn taps<V: Lanes, const R: usize, const T: usize>(&mut self, row: usize) {
        let taps = self.image.taps.len();
        for first in (0..taps).step_by(T) {
            // SAFETY: as the caller vouches.
            unsafe { self.tile::<V, R, T>(row, first) }
        }
    }

    /// `R` output channels times `T` taps. Taps past the last repeat it and are dropped.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const R: usize, const T: usize>(&mut self, row: usize, first: usize) {
        let image = self.image;
        let last = image.taps.len() - 1;
        let taps: [usize; T] = std::array::from_fn(|i| image.taps[(first + i).min(last)]);
        // SAFETY: bases, taps and lengths were made for these buffers.
        unsafe {
            let mut sums = [[V::splat(0.0); T]; R];
            for (&data, &gradient) in self.data.iter().zip(&self.gradients) {
                let gradient = gradient.add(row * self.plane_out);
                for vector in image.vectors.iter().chain(&image.tail) {
                    let (x, dy): ([V; T], [V; R]) = if vector.len == V::COUNT {
                        let x = data.add(vector.base);
                        let dy = gradient.add(vector.out);
                        (
                            std::array::from_fn(|i| V::load(x.add(taps[i]))),
                            std::array::from_fn(|i| V::load(dy.add(i * self.plane_out))),
                        )
                    } else {
                        let part = Part::new(0, vector.len, 1);
                        let x = data.add(vector.base);
                        let dy = gradient.add(vector.out);
                        (
                            std::array::from_fn(|i| V::load_part::<1>(x.add(taps[i]), part)),
                            std::array::from_fn(|i| {
                                V::load_part::<1>(dy.add(i * self.plane_out), part)
                            }),
                        )
                    };
                    for i in 0..R {
                        for j in 0..T {
                            sums[i][j] = sums[i][j].mul_add(dy[i], x[j]);
                        }
                    }
                }
            }
            for i in 0..R {
                for j in 0..T {
                    if first + j <= last {
                        let mut lanes = [0.0f32; 16];
                        sums[i][j].store(lanes.as_mut_ptr());
                        self.out[(row + i) * (last + 1) + first + j] += total(&lanes);
                    }
                }
            }
        }
    }
}

/// The sum of all lanes, pairwise.
#[inline(always)]
fn total(lanes: &[f32; 16]) -> f32 {
    let mut sums = *lanes;
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}
