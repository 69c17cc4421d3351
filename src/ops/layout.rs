//! Shapes as arithmetic: axes, element counts, broadcasting, strided copies.

use std::cell::Cell;

use crate::error::OpError;

/// Elements that one value may have. A graph of a few bytes can ask for any number of them.
const MOST: usize = 1 << 31;

thread_local! {
    /// Elements that a value computed on this thread may have.
    static ALLOWED: Cell<usize> = const { Cell::new(MOST) };
}

/// Does `work`, in which operators that run on this thread refuse to make values of more than
/// `elements` elements.
pub fn bounded<R>(elements: usize, work: impl FnOnce() -> R) -> R {
    struct Before(usize);
    impl Drop for Before {
        fn drop(&mut self) {
            ALLOWED.set(self.0);
        }
    }
    let _before = Before(ALLOWED.replace(elements.min(MOST)));
    work()
}

/// The number of elements of `shape`.
///
/// # Errors
/// When a value may not have so many; callers allocate only after this check.
pub(super) fn count(shape: &[usize]) -> Result<usize, OpError> {
    let allowed = ALLOWED.get();
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| *n <= allowed).ok_or_else(
        || OpError::shape(format!("shape {shape:?} is too large: more than {allowed} elements")),
    )
}

/// Axis `axis` of `rank`, counted from the back where negative.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let index = if axis < 0 { axis.saturating_add(signed) } else { axis };
    usize::try_from(index)
        .ok()
        .filter(|i| *i < rank)
        .ok_or_else(|| OpError::value(format!("axis {axis} is not within rank {rank}")))
}

/// Like [`axis()`], with one more place allowed at the end.
pub(super) fn axis_or_end(value: i64, rank: usize) -> Result<usize, OpError> {
    if i64::try_from(rank) == Ok(value) { Ok(rank) } else { axis(value, rank) }
}

/// `axes` of `rank` in ascending order.
///
/// # Errors
/// When one is out of range or occurs twice.
pub(super) fn axes(values: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut list = values.iter().map(|&v| axis(v, rank)).collect::<Result<Vec<_>, _>>()?;
    list.sort_unstable();
    if list.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(OpError::value(format!("an axis occurs twice in {values:?}")));
    }
    Ok(list)
}

/// An extent or count given as an integer.
pub(super) fn extent(value: i64) -> Result<usize, OpError> {
    usize::try_from(value).map_err(|_| OpError::value(format!("{value} is not an extent")))
}

/// Extents before, at and after `axis`: the array seen as `[outer, n, inner]`.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let outer = shape[..axis].iter().product();
    let inner = shape[axis + 1..].iter().product();
    (outer, shape[axis], inner)
}

/// Row-major strides, in elements.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut result = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        result[i - 1] = result[i].saturating_mul(shape[i]);
    }
    result
}

/// The shape two shapes broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = a.len().max(b.len());
    let mut shape = vec![1; rank];
    for (from_back, extent) in shape.iter_mut().rev().enumerate() {
        let x = a.len().checked_sub(from_back + 1).map_or(1, |i| a[i]);
        let y = b.len().checked_sub(from_back + 1).map_or(1, |i| b[i]);
        *extent = match (x, y) {
            _ if x == y => x,
            (1, _) => y,
            (_, 1) => x,
            _ => return Err(OpError::shape(format!("{a:?} and {b:?} don't broadcast"))),
        };
    }
    count(&shape)?;
    Ok(shape)
}

/// Strides of an operand of shape `from` that is read as `to`: zero along repeated axes.
///
/// # Errors
/// When `from` doesn't broadcast to `to`.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Result<Vec<usize>, OpError> {
    let fault = || OpError::shape(format!("{from:?} doesn't broadcast to {to:?}"));
    let lead = to.len().checked_sub(from.len()).ok_or_else(fault)?;
    let mut result = vec![0; to.len()];
    for (i, (&extent, stride)) in from.iter().zip(strides(from)).enumerate() {
        if extent == to[lead + i] && extent != 1 {
            result[lead + i] = stride;
        } else if extent != 1 {
            return Err(fault());
        }
    }
    Ok(result)
}

/// How two operands are walked together over a broadcast shape: nested loops, whose innermost reads
/// each operand with stride 0 or 1.
pub(super) struct Pairing {
    /// `(extent, stride of a, stride of b)`, outermost first.
    outer: Vec<(usize, usize, usize)>,
    /// Extent of the innermost loop.
    pub(super) inner: usize,
    /// Whether the innermost loop moves along a.
    pub(super) moves_a: bool,
    /// Whether the innermost loop moves along b.
    pub(super) moves_b: bool,
}

impl Pairing {
    /// The walk of operands of shapes `a` and `b` over `shape`.
    pub(super) fn new(shape: &[usize], a: &[usize], b: &[usize]) -> Result<Self, OpError> {
        let (sa, sb) = (broadcast_strides(a, shape)?, broadcast_strides(b, shape)?);
        let mut loops: Vec<(usize, usize, usize)> = Vec::new();
        for ((&extent, sa), sb) in shape.iter().zip(sa).zip(sb) {
            if extent == 1 {
                continue;
            }
            match loops.last_mut() {
                // Consecutive axes that lie in memory as one are walked as one.
                Some(last) if last.1 == sa * extent && last.2 == sb * extent => {
                    *last = (last.0 * extent, sa, sb);
                }
                _ => loops.push((extent, sa, sb)),
            }
        }
        let (inner, sa, sb) = loops.pop().unwrap_or((1, 1, 1));
        Ok(Self { outer: loops, inner, moves_a: sa != 0, moves_b: sb != 0 })
    }

    /// Calls `visit` with the offsets of each innermost loop in the result, a and b.
    #[inline(always)]
    pub(super) fn for_each(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let total: usize = self.outer.iter().map(|l| l.0).product();
        if self.inner == 0 {
            return;
        }
        let mut index = vec![0; self.outer.len()];
        let (mut at_a, mut at_b) = (0, 0);
        for step in 0..total {
            visit(step * self.inner, at_a, at_b);
            for (i, &(extent, sa, sb)) in index.iter_mut().zip(&self.outer).rev() {
                *i += 1;
                at_a += sa;
                at_b += sb;
                if *i < extent {
                    break;
                }
                *i = 0;
                at_a -= sa * extent;
                at_b -= sb * extent;
            }
        }
    }
}

/// Side of the square tiles in which transposing copies read and write.
const TILE: usize = 16;

/// Reads `source` along `axes` (extent and stride in elements, outermost first) from `start` on and
/// lays what it reads out in row-major order.
///
/// # Errors
/// When the walk leaves `source`.
pub(super) fn copy_strided<T: Copy>(
    source: &[T],
    start: usize,
    axes: &[(usize, isize)],
) -> Result<Vec<T>, OpError> {
    let total = count(&axes.iter().map(|a| a.0).collect::<Vec<_>>())?;
    if total == 0 {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (start as isize, start as isize);
    for &(extent, stride) in axes {
        let reach = stride.saturating_mul(extent as isize - 1);
        low = low.saturating_add(reach.min(0));
        high = high.saturating_add(reach.max(0));
    }
    if low < 0 || high >= source.len() as isize {
        return Err(OpError::shape("a strided walk leaves its array"));
    }
    let mut loops: Vec<(usize, isize)> = Vec::new();
    for &(extent, stride) in axes.iter().filter(|a| a.0 != 1) {
        match loops.last_mut() {
            Some(last) if last.1 == stride * extent as isize => *last = (last.0 * extent, stride),
            _ => loops.push((extent, stride)),
        }
    }
    let (inner, stride) = loops.pop().unwrap_or((1, 1));
    let unit = loops.iter().rposition(|l| l.1 == 1).filter(|_| stride != 1 && stride != 0);
    if let Some(unit) = unit {
        return Ok(copy_tiled(source, start, &loops, unit, (inner, stride)));
    }
    let mut result = Vec::with_capacity(total);
    walk(&loops, start as isize, |at| match stride {
        1 => result.extend_from_slice(&source[at..at + inner]),
        0 => result.resize(result.len() + inner, source[at]),
        _ => {
            result.extend((0..inner as isize).map(|i| source[(at as isize + i * stride) as usize]))
        }
    });
    Ok(result)
}

/// [`copy_strided`] where the axis contiguous in the source is not the last of the result: moves
/// square tiles, so that both sides are touched a cache line at a time.
fn copy_tiled<T: Copy>(
    source: &[T],
    start: usize,
    loops: &[(usize, isize)],
    unit: usize,
    (columns, column_stride): (usize, isize),
) -> Vec<T> {
    let rows = loops[unit].0;
    // Row stride within the result: everything after axis `unit`.
    let row_step = loops[unit + 1..].iter().map(|l| l.0).product::<usize>() * columns;
    let total = loops.iter().map(|l| l.0).product::<usize>() * columns;
    let mut result = vec![source[start]; total];
    let mut target_strides = vec![columns; loops.len()];
    for i in (1..loops.len()).rev() {
        target_strides[i - 1] = target_strides[i] * loops[i].0;
    }
    let others: Vec<(usize, isize, usize)> = (0..loops.len())
        .filter(|i| *i != unit)
        .map(|i| (loops[i].0, loops[i].1, target_strides[i]))
        .collect();
    let mut index = vec![0usize; others.len()];
    let (mut from, mut to) = (start as isize, 0usize);
    loop {
        for row in (0..rows).step_by(TILE) {
            for column in (0..columns).step_by(TILE) {
                let tile_columns = TILE.min(columns - column);
                for r in row..rows.min(row + TILE) {
                    let target = to + r * row_step + column;
                    let target = &mut result[target..target + tile_columns];
                    let base = from + r as isize + column as isize * column_stride;
                    for (i, value) in target.iter_mut().enumerate() {
                        *value = source[(base + i as isize * column_stride) as usize];
                    }
                }
            }
        }
        let mut done = true;
        for (i, &(extent, stride, target_stride)) in index.iter_mut().zip(&others).rev() {
            *i += 1;
            from += stride;
            to += target_stride;
            if *i < extent {
                done = false;
                break;
            }
            *i = 0;
            from -= stride * extent as isize;
            to -= target_stride * extent;
        }
        if done {
            return result;
        }
    }
}

/// Visits the offset of every index of nested loops, innermost fastest.
pub(super) fn walk(loops: &[(usize, isize)], start: isize, mut visit: impl FnMut(usize)) {
    let total: usize = loops.iter().map(|l| l.0).product();
    let mut index = vec![0usize; loops.len()];
    let mut at = start;
    for _ in 0..total {
        visit(at as usize);
        for (i, &(extent, stride)) in index.iter_mut().zip(loops).rev() {
            *i += 1;
            at += stride;
            if *i < extent {
                break;
            }
            *i = 0;
            at -= stride * extent as isize;
        }
    }
}
