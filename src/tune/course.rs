//! One training of a model, from its constants to a model with better ones.

use super::{Augmentation, Descent, History, Parameter, Recipe, Student, descend, trainable};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::eval::{Evaluator, Obstacle};
use crate::onnx::Model;
use crate::progress::Progress;
use crate::score::{Objective, Scorer};
use crate::search::{Samples, score};

/// What a model is trained on, towards what, and how.
pub struct Course<'a> {
    /// Runs the model whose outputs are imitated.
    pub original: &'a Evaluator,
    /// Where samples to train on are.
    pub data: &'a Dataset,
    /// Which of them are trained on.
    pub samples: &'a [usize],
    /// Samples that states are judged on.
    pub checks: &'a Samples,
    /// Scores outputs on those.
    pub scorer: &'a Scorer,
    /// What the loss is made of.
    pub objective: Objective,
    /// What is done to images.
    pub augmentation: Augmentation,
    /// How it is done.
    pub recipe: Recipe,
}

/// A term of the loss that depends on the parameters alone: adds its gradient to that of the loss,
/// and returns its value.
pub type Penalty<'a> = dyn FnMut(&[Parameter], &mut [Vec<f32>]) -> Result<f64> + Send + 'a;

/// A trained model.
pub struct Trained {
    /// The model.
    pub model: Model,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// How training went.
    pub history: History,
    /// Nodes without a backward rule, and the parameters that stayed as they were for it.
    pub obstacles: Vec<Obstacle>,
}

impl Course<'_> {
    /// Trains the weights of `model`; `penalty` makes the term of the loss for its parameters.
    ///
    /// # Errors
    /// As [`Student::new`] and [`descend`].
    pub fn train<'p>(
        &self,
        model: &Model,
        penalty: impl FnOnce(&[Parameter]) -> Result<Box<Penalty<'p>>>,
        progress: &dyn Progress,
    ) -> Result<Trained> {
        let names = trainable(model)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut student = Student::new(model, &names, self.original, self.data, self.scorer)?;
        student.objective = self.objective;
        student.augmentation = self.augmentation;
        let mut parameters = student.parameters();
        let mut penalty = penalty(&parameters)?;
        let mut descent = Descent {
            slopes: &|parameters, samples, seed| student.slopes(parameters, samples, seed),
            regularize: &mut *penalty,
            score: &mut |parameters| {
                let evaluator = Evaluator::new(&student.trained(parameters)?)?;
                Ok(score(&evaluator, self.checks, self.scorer)?.mean_loss())
            },
        };
        let history = descend(&mut parameters, self.samples, &self.recipe, &mut descent, progress)?;
        let model = student.trained(&parameters)?;
        let obstacles = student.obstacles().to_vec();
        Ok(Trained { model, parameters, history, obstacles })
    }
}
