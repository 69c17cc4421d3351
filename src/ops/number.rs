//! Arithmetic shared by the numeric element types, with the conventions of the operators: integers
//! wrap, minima and maxima carry NaN on.

use crate::tensor::Element;

/// A numeric element type.
pub(super) trait Number: Element + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// Below or equal to every value.
    const LOWEST: Self;
    /// Above or equal to every value.
    const HIGHEST: Self;
    const IS_FLOAT: bool;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Integers truncate; their divisor must not be zero.
    fn over(self, other: Self) -> Self;
    /// Remainder with the sign of the dividend; an integer divisor must not be zero.
    fn remainder(self, other: Self) -> Self;
    /// Remainder with the sign of the divisor; an integer divisor must not be zero.
    fn modulo(self, other: Self) -> Self;
    fn power(self, exponent: Self) -> Self;
    fn magnitude(self) -> Self;
    fn negative(self) -> Self;
    fn to_f64(self) -> f64;
    /// Truncates towards zero, saturates.
    fn of_f64(value: f64) -> Self;
    fn is_nan(self) -> bool;
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }
}

macro_rules! floats {
    ($($type:ident),*) => {$(
        impl Number for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $type::NEG_INFINITY;
            const HIGHEST: Self = $type::INFINITY;
            const IS_FLOAT: bool = true;
            #[inline(always)]
            fn plus(self, other: Self) -> Self { self + other }
            #[inline(always)]
            fn minus(self, other: Self) -> Self { self - other }
            #[inline(always)]
            fn times(self, other: Self) -> Self { self * other }
            #[inline(always)]
            fn over(self, other: Self) -> Self { self / other }
            fn remainder(self, other: Self) -> Self { self % other }
            fn modulo(self, other: Self) -> Self {
                let rest = self % other;
                if rest != 0.0 && (rest < 0.0) != (other < 0.0) { rest + other } else { rest }
            }
            fn power(self, exponent: Self) -> Self { self.powf(exponent) }
            #[inline(always)]
            fn magnitude(self) -> Self { self.abs() }
            #[inline(always)]
            fn negative(self) -> Self { -self }
            fn to_f64(self) -> f64 { self.into() }
            fn of_f64(value: f64) -> Self { value as $type }
            #[inline(always)]
            fn is_nan(self) -> bool { self != self }
        }
    )*};
}

macro_rules! integers {
    ($($type:ident),*) => {$(
        impl Number for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = $type::MIN;
            const HIGHEST: Self = $type::MAX;
            const IS_FLOAT: bool = false;
            #[inline(always)]
            fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn minus(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn over(self, other: Self) -> Self { self.wrapping_div(other) }
            fn remainder(self, other: Self) -> Self { self.wrapping_rem(other) }
            #[allow(unused_comparisons)]
            fn modulo(self, other: Self) -> Self {
                let rest = self.wrapping_rem(other);
                if rest != 0 && (rest < 0) != (other < 0) { rest.wrapping_add(other) } else { rest }
            }
            fn power(self, exponent: Self) -> Self {
                match u32::try_from(exponent) {
                    Ok(exponent) => self.wrapping_pow(exponent),
                    Err(_) => Self::of_f64(self.to_f64().powf(exponent.to_f64())),
                }
            }
            #[allow(unused_comparisons)]
            fn magnitude(self) -> Self { if self < 0 { self.wrapping_neg() } else { self } }
            fn negative(self) -> Self { self.wrapping_neg() }
            fn to_f64(self) -> f64 { self as f64 }
            fn of_f64(value: f64) -> Self { value as $type }
            fn is_nan(self) -> bool { false }
        }
    )*};
}

floats!(f32, f64);
integers!(i8, i16, i32, i64, u8, u16, u32, u64);
