//! Vectors of `f32` under one interface, so that a kernel is written once and compiled for every
//! instruction set.
//!
//! Every method is inlined into a caller that enables the instruction set; calling one elsewhere is
//! undefined behaviour on a processor without it, hence `unsafe`.

/// Some consecutive lanes of a vector, read from every `stride`-th element.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    first: u32,
    end: u32,
    stride: usize,
    /// For strides 1 and 2, the elements that are read, from lane 0's on.
    bits: u32,
}

impl Part {
    /// Lanes `first..end`, of which there are 16 at most.
    #[must_use]
    pub fn new(first: usize, end: usize, stride: usize) -> Self {
        let lanes = first as u32..(end.min(16) as u32).max(first as u32);
        let bit = |lane: u32| 1u32.checked_shl(lane * stride.min(2) as u32).unwrap_or(0);
        let bits = lanes.clone().map(bit).fold(0, |bits, bit| bits | bit);
        Self { first: lanes.start, end: lanes.end, stride, bits }
    }
}

/// The lanes of a part, one by one.
#[inline(always)]
unsafe fn gathered(from: *const f32, part: Part) -> [f32; 16] {
    let mut lanes = [0.0f32; 16];
    for lane in part.first as usize..part.end as usize {
        // SAFETY: the caller vouches for these elements; lane 0 may lie outside the buffer.
        lanes[lane] = unsafe { from.wrapping_add(lane * part.stride).read() };
    }
    lanes
}

/// A vector register of `f32`.
#[allow(clippy::missing_safety_doc)] // One contract for all methods: see the module's text.
pub trait Lanes: Copy {
    /// How many elements it holds.
    const COUNT: usize;
    /// Output channels that a convolution computes together, at most: what the register file has
    /// room for, with several vectors for each.
    const ROWS: usize;

    /// The same value in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// `COUNT` elements from `from` on.
    unsafe fn load(from: *const f32) -> Self;
    /// The lanes of `part` from `from + lane * STRIDE`, the others zero; memory of the others is not
    /// touched. `STRIDE` is the part's.
    #[inline(always)]
    unsafe fn load_part<const STRIDE: usize>(from: *const f32, part: Part) -> Self {
        // SAFETY: as the caller vouches.
        unsafe { Self::load(gathered(from, part).as_ptr()) }
    }
    /// All lanes to `to` and on.
    unsafe fn store(self, to: *mut f32);
    /// The lanes of `part`, whose stride is 1, to `to + lane`.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, part: Part) {
        let mut lanes = [0.0f32; 16];
        // SAFETY: no vector is longer than the array; the caller vouches for these elements.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for lane in part.first as usize..part.end as usize {
                to.wrapping_add(lane).write(lanes[lane]);
            }
        }
    }
    /// `a * b + self`.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane-wise into `[low, high]`; NaN stays NaN.
    unsafe fn clamp(self, low: Self, high: Self) -> Self;
    /// Exchanges rows and lanes of the first `COUNT` rows; the others are left.
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; 16]) {
        let mut lanes = [[0.0f32; 16]; 16];
        // SAFETY: no vector is longer than an array.
        unsafe {
            for i in 0..Self::COUNT {
                let mut row = [0.0f32; 16];
                rows[i].store(row.as_mut_ptr());
                for j in 0..Self::COUNT {
                    lanes[j][i] = row[j];
                }
            }
            for i in 0..Self::COUNT {
                rows[i] = Self::load(lanes[i].as_ptr());
            }
        }
    }
}

/// Portable vector that the compiler maps to what the target has.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

impl Lanes for Portable {
    const COUNT: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable elements.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for eight writable elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(mut self, a: Self, b: Self) -> Self {
        for i in 0..8 {
            // A fused instruction where the target always has one, not a library call elsewhere.
            self.0[i] = if cfg!(target_arch = "aarch64") {
                a.0[i].mul_add(b.0[i], self.0[i])
            } else {
                a.0[i] * b.0[i] + self.0[i]
            };
        }
        self
    }
    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for i in 0..8 {
            self.0[i] += other.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn clamp(mut self, low: Self, high: Self) -> Self {
        for i in 0..8 {
            let v = if self.0[i] < low.0[i] { low.0[i] } else { self.0[i] };
            self.0[i] = if v > high.0[i] { high.0[i] } else { v };
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Part, gathered};
    use std::arch::x86_64::*;

    macro_rules! x86_lanes {
        ($type:ty, $count:literal, $rows:literal, [$($part:item)*], $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident,
         $max:ident, $min:ident) => {
            impl Lanes for $type {
                const COUNT: usize = $count;
                const ROWS: usize = $rows;

                $(#[inline(always)] $part)*
                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, a: Self, b: Self) -> Self {
                    unsafe { $fma(a, b, self) }
                }
                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                unsafe fn clamp(self, low: Self, high: Self) -> Self {
                    // Both instructions return their second operand when either is NaN.
                    unsafe { $min(high, $max(low, self)) }
                }
            }
        };
    }

    #[inline(always)]
    unsafe fn load_part_512<const STRIDE: usize>(from: *const f32, part: Part) -> __m512 {
        unsafe {
            match STRIDE {
                1 => _mm512_maskz_loadu_ps(part.bits as u16, from),
                2 => {
                    // The even ones of two vectors.
                    let low = _mm512_maskz_loadu_ps(part.bits as u16, from);
                    let high =
                        _mm512_maskz_loadu_ps((part.bits >> 16) as u16, from.wrapping_add(16));
                    let even = _mm512_setr_epi32(
                        0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                    );
                    _mm512_permutex2var_ps(low, even, high)
                }
                _ => _mm512_loadu_ps(gathered(from, part).as_ptr()),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_part_256<const STRIDE: usize>(from: *const f32, part: Part) -> __m256 {
        unsafe {
            if STRIDE != 1 {
                return _mm256_loadu_ps(gathered(from, part).as_ptr());
            }
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let bits = _mm256_srlv_epi32(_mm256_set1_epi32(part.bits as i32), lanes);
            // The sign bit of a lane says whether it is read.
            _mm256_maskload_ps(from, _mm256_slli_epi32(bits, 31))
        }
    }

    #[inline(always)]
    unsafe fn transpose_512(r: &mut [__m512; 16]) {
        unsafe {
            let mut t = *r;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            // Then quarter q of vector 4i + j has lane 4q + j of rows 4i..4i + 4.
            for i in (0..16).step_by(4) {
                let [a, b, c, d]: [__m512d; 4] =
                    std::array::from_fn(|j| _mm512_castps_pd(t[i + j]));
                r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
                r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
                r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
                r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
            }
            for j in 0..4 {
                let even = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
                let even_b = _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]);
                let odd_b = _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]);
                t[j] = _mm512_shuffle_f32x4::<0x88>(even, even_b);
                t[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_b);
                t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even_b);
                t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_b);
            }
            *r = t;
        }
    }

    #[inline(always)]
    unsafe fn transpose_256(r: &mut [__m256; 16]) {
        unsafe {
            let mut t = *r;
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            // Then half h of vector 4i + j has lane 4h + j of rows 4i..4i + 4.
            for i in [0, 4] {
                let [a, b, c, d]: [__m256d; 4] =
                    std::array::from_fn(|j| _mm256_castps_pd(t[i + j]));
                r[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
                r[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
                r[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
                r[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
            }
            for j in 0..4 {
                let (low, high) = (r[j], r[4 + j]);
                r[j] = _mm256_permute2f128_ps::<0x20>(low, high);
                r[4 + j] = _mm256_permute2f128_ps::<0x31>(low, high);
            }
        }
    }

    x86_lanes!(
        __m256,
        8,
        6,
        [unsafe fn transpose(rows: &mut [Self; 16]) {
            unsafe { transpose_256(rows) }
        }
        unsafe fn load_part<const STRIDE: usize>(from: *const f32, part: Part) -> Self {
            unsafe { load_part_256::<STRIDE>(from, part) }
        }],
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_max_ps,
        _mm256_min_ps
    );
    x86_lanes!(
        __m512,
        16,
        8,
        [unsafe fn transpose(rows: &mut [Self; 16]) {
            unsafe { transpose_512(rows) }
        }
        unsafe fn load_part<const STRIDE: usize>(from: *const f32, part: Part) -> Self {
            unsafe { load_part_512::<STRIDE>(from, part) }
        }
        unsafe fn store_part(self, to: *mut f32, part: Part) {
            unsafe { _mm512_mask_storeu_ps(to, part.bits as u16, self) }
        }],
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );
}

/// The instruction set that kernels run with on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain code.
    Portable,
}

impl Isa {
    /// The best one that this processor runs.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}

/// Evaluates an expression in code compiled for the vectors of this processor: loops in it that the compiler
/// makes vectors of, those of functions that are inlined into it included, take the widest ones. Results are
/// the same to the bit, as sums are neither reordered nor fused.
// The expression is repeated for every instruction set: a closure that is called in one place only is inlined,
// however long it is, and takes on the instructions of its caller.
macro_rules! wide {
    ($work:expr) => {
        match $crate::kernels::lanes::Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the variant is only made on a processor that has the instructions.
            $crate::kernels::lanes::Isa::Avx512 => unsafe {
                $crate::kernels::lanes::wide_512(|| $work)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            $crate::kernels::lanes::Isa::Avx2 => unsafe {
                $crate::kernels::lanes::wide_256(|| $work)
            },
            $crate::kernels::lanes::Isa::Portable => $work,
        }
    };
}
pub(crate) use wide;

/// Does `work` with 512-bit vectors.
///
/// # Safety
/// The processor must have them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub unsafe fn wide_512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Does `work` with 256-bit vectors.
///
/// # Safety
/// The processor must have them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub unsafe fn wide_256<R>(work: impl FnOnce() -> R) -> R {
    work()
}
