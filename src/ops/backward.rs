//! The reverse pass through one operator: what a rule is given and how an operator gets one.

use super::args::{Decoded, Inputs};
use super::reduce::summed;
use super::{Operator, args::floats};
use crate::error::OpError;
use crate::tensor::{Array, DataType, Element, Tensor};

/// How outputs depend on inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivative {
    /// Not, or only in jumps: no gradient passes.
    Zero,
    /// Smoothly, but there is no rule for it.
    Unknown,
    /// There is a rule, which reads these values of the run.
    Rule(Reads),
}

/// Values of a run that a rule reads. Shapes, element types and inputs that are not floats are
/// there in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// A bit for each position; the last one stands for all from there on.
    inputs: u32,
    outputs: u32,
}

impl Reads {
    /// Shapes only.
    pub const NOTHING: Self = Self { inputs: 0, outputs: 0 };
    /// All inputs.
    pub const INPUTS: Self = Self { inputs: u32::MAX, outputs: 0 };
    /// All outputs.
    pub const OUTPUTS: Self = Self { inputs: 0, outputs: u32::MAX };
    /// Everything.
    pub const ALL: Self = Self { inputs: u32::MAX, outputs: u32::MAX };

    /// These and one more input, where `condition` holds.
    #[must_use]
    pub fn with_input(self, index: usize, condition: bool) -> Self {
        Self { inputs: self.inputs | if condition { bit(index) } else { 0 }, ..self }
    }

    /// These and the output at `index`, where `condition` holds.
    #[must_use]
    pub fn with_output(self, index: usize, condition: bool) -> Self {
        Self { outputs: self.outputs | if condition { bit(index) } else { 0 }, ..self }
    }

    /// Whether the input at `index` is read.
    #[must_use]
    pub fn input(self, index: usize) -> bool {
        self.inputs & bit(index) != 0
    }

    /// Whether the output at `index` is read.
    #[must_use]
    pub fn output(self, index: usize) -> bool {
        self.outputs & bit(index) != 0
    }
}

fn bit(index: usize) -> u32 {
    1 << index.min(31)
}

/// What is left of a value of the run.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its element type.
    pub data_type: DataType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The value, where a rule reads it.
    pub value: Option<Tensor>,
}

impl Kept {
    /// The whole value, or its shape only.
    #[must_use]
    pub fn new(tensor: &Tensor, whole: bool) -> Self {
        Self {
            data_type: tensor.data_type(),
            shape: tensor.shape().to_vec(),
            value: whole.then(|| tensor.clone()),
        }
    }
}

/// Gradients of the inputs, in their order; `None`, or left out at the end, where there is none.
pub type Gradients = Result<Vec<Option<Tensor>>, OpError>;

/// What a rule is given.
pub struct Backward<'a> {
    /// The inputs, `None` where the node omits one.
    pub inputs: &'a [Option<Kept>],
    /// The outputs, `None` where the node omits one.
    pub outputs: &'a [Option<Kept>],
    /// Gradients of the outputs, at least one; `None` for an output that nothing depends on. A rule
    /// may take an entry, and write its result into it when nothing else shares it.
    pub gradients: Vec<Option<Tensor>>,
    /// For each input whether its gradient is asked for.
    pub wanted: &'a [bool],
    /// What other steps, or other runs, have given for each input so far; may be shorter than the
    /// inputs. A rule that takes an entry returns the sum with it; others leave it.
    pub so_far: Vec<Option<Tensor>>,
}

impl Backward<'_> {
    /// Whether the gradient of the input at `index` is asked for.
    #[must_use]
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }

    /// The value of the input at `index`.
    ///
    /// # Errors
    /// When it is omitted or was not kept.
    pub fn input(&self, index: usize) -> Result<&Tensor, OpError> {
        value(self.inputs, index).ok_or(OpError::MissingInput { index })
    }

    /// The shape of the input at `index`.
    ///
    /// # Errors
    /// When it is omitted.
    pub fn shape(&self, index: usize) -> Result<&[usize], OpError> {
        let kept = self.inputs.get(index).and_then(Option::as_ref);
        kept.map(|kept| kept.shape.as_slice()).ok_or(OpError::MissingInput { index })
    }

    /// Whether the node has an input at `index`.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.inputs.get(index).is_some_and(Option::is_some)
    }

    /// The value of the output at `index`.
    ///
    /// # Errors
    /// When it was not kept.
    pub fn output(&self, index: usize) -> Result<&Tensor, OpError> {
        value(self.outputs, index)
            .ok_or_else(|| OpError::value(format!("output {index} was not kept")))
    }

    /// The gradient of the output at `index`, by value.
    ///
    /// # Errors
    /// When there is none.
    pub fn gradient(&mut self, index: usize) -> Result<Tensor, OpError> {
        let gradient = self.gradients.get_mut(index).and_then(Option::take);
        gradient.ok_or_else(|| OpError::value(format!("no gradient of output {index}")))
    }

    /// What the input at `index` has as its gradient so far, where it is of `f32`; then the rule
    /// returns the sum.
    pub fn so_far(&mut self, index: usize) -> Option<Array<f32>> {
        let entry = self.so_far.get_mut(index)?;
        match entry.take() {
            Some(Tensor::F32(array)) => Some(array),
            other => {
                *entry = other;
                None
            }
        }
    }

    /// The inputs as values, where they were kept.
    #[must_use]
    pub fn values(&self) -> Vec<Option<Tensor>> {
        self.inputs.iter().map(|kept| kept.as_ref()?.value.clone()).collect()
    }
}

fn value(list: &[Option<Kept>], index: usize) -> Option<&Tensor> {
    list.get(index)?.as_ref()?.value.as_ref()
}

/// An operator with a rule.
struct Ruled<R, B> {
    operator: Box<dyn Operator>,
    reads: R,
    backward: B,
}

impl<R, B> Operator for Ruled<R, B>
where
    R: Fn(&[bool]) -> Reads + Send + Sync,
    B: Fn(&mut Backward<'_>) -> Gradients + Send + Sync,
{
    fn run(&self, inputs: &mut Inputs) -> Result<Vec<Tensor>, OpError> {
        self.operator.run(inputs)
    }

    fn derivative(&self, wanted: &[bool]) -> Derivative {
        Derivative::Rule((self.reads)(wanted))
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Gradients {
        (self.backward)(pass)
    }
}

/// `operator` with a rule that always reads the same values.
pub(super) fn rule<B>(operator: Decoded, reads: Reads, backward: B) -> Decoded
where
    B: Fn(&mut Backward<'_>) -> Gradients + Send + Sync + 'static,
{
    choosy(operator, move |_| reads, backward)
}

/// `operator` with a rule; `reads` says what it reads when the given inputs' gradients are wanted.
pub(super) fn choosy<R, B>(operator: Decoded, reads: R, backward: B) -> Decoded
where
    R: Fn(&[bool]) -> Reads + Send + Sync + 'static,
    B: Fn(&mut Backward<'_>) -> Gradients + Send + Sync + 'static,
{
    Ok(Box::new(Ruled { operator: operator?, reads, backward }))
}

/// `operator` with a rule for its first input only, which maps the gradient of its first output.
pub(super) fn single<B>(operator: Decoded, reads: Reads, backward: B) -> Decoded
where
    B: Fn(&mut Backward<'_>, Tensor) -> Result<Tensor, OpError> + Send + Sync + 'static,
{
    rule(operator, reads, move |pass| {
        let gradient = pass.gradient(0)?;
        Ok(vec![Some(backward(pass, gradient)?)])
    })
}

/// An operator whose outputs don't depend on its inputs, or only in jumps.
struct Flat(Box<dyn Operator>);

impl Operator for Flat {
    fn run(&self, inputs: &mut Inputs) -> Result<Vec<Tensor>, OpError> {
        self.0.run(inputs)
    }

    fn derivative(&self, _: &[bool]) -> Derivative {
        Derivative::Zero
    }
}

/// `operator`, through which no gradient passes.
pub(super) fn flat(operator: Decoded) -> Decoded {
    Ok(Box::new(Flat(operator?)))
}

/// The gradient of a value of shape `shape` that was broadcast, from the gradient of what it was
/// broadcast to.
pub(super) fn unbroadcast(gradient: Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
    let wide = gradient.shape();
    if wide == shape {
        return Ok(gradient);
    }
    let lead = wide.len().checked_sub(shape.len()).ok_or_else(|| {
        OpError::shape(format!("a gradient of shape {wide:?} for a value of {shape:?}"))
    })?;
    let axes: Vec<usize> =
        (0..wide.len()).filter(|&i| i < lead || (shape[i - lead] == 1 && wide[i] != 1)).collect();
    floats!(gradient, "a gradient", g => Tensor::from_vec(shape, summed(g, &axes)?))
}

/// `a` and `b` added, over the one of them that nothing else shares.
///
/// # Errors
/// When they differ in shape or element type, or are not floats.
pub fn accumulate(a: Tensor, b: Tensor) -> Result<Tensor, OpError> {
    if a.shape() != b.shape() {
        let (a, b) = (a.shape(), b.shape());
        return Err(OpError::shape(format!("gradients of shapes {a:?} and {b:?}")));
    }
    floats!(a, "a gradient", a => {
        let b = b.into_typed("a gradient")?;
        super::arithmetic::combine(a, b, |x, y| x + y).map(Tensor::from)
    })
}

/// Zeros of a shape.
pub(super) fn zeros<T: Element + Default>(shape: &[usize]) -> Array<T> {
    Array::from_elem(ndarray::IxDyn(shape), T::default())
}
