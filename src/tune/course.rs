//! One training of a model, from its constants to a model with better ones.

use super::{
    Augmentation, Checkpoint, Descent, History, Parameter, Penalty, Recipe, Student, descend,
    trainable,
};
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

/// What a training is after besides the loss on samples.
pub struct Aim<'a> {
    /// A term of the loss that depends on the parameters alone.
    pub penalty: Box<Penalty<'a>>,
    /// What the parameters become before they are scored.
    pub judged: Box<dyn Fn(&[Parameter]) -> Result<Vec<Parameter>> + Send + Sync + 'a>,
}

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
    /// Trains the weights of `model`; `aim` is made for its parameters. Where
    /// `checkpoint` has a state of this training, the `index`-th of its run, it goes on from there.
    ///
    /// # Errors
    /// As [`Student::new`] and [`descend`], and when a state can't be kept.
    pub fn train<'p>(
        &self,
        model: &Model,
        aim: impl FnOnce(&[Parameter]) -> Result<Aim<'p>>,
        mut checkpoint: Option<&mut Checkpoint>,
        index: usize,
        progress: &dyn Progress,
    ) -> Result<Trained> {
        let names = trainable(model)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut student = Student::new(model, &names, self.original, self.data, self.scorer)?;
        student.objective = self.objective;
        student.augmentation = self.augmentation;
        let mut parameters = student.parameters();
        let known = checkpoint.as_ref().and_then(|c| c.state(index));
        let mut recipe = self.recipe;
        let state = known.map(|(state, ended)| {
            // Nothing is left to do but to take over what was best.
            recipe.patience = if ended { 0 } else { recipe.patience };
            state
        });
        if recipe.patience == 0 {
            recipe.epochs = 0.0;
        }
        let Aim { mut penalty, judged } = aim(&parameters)?;
        let mut last = None;
        let mut descent = Descent {
            slopes: &|parameters, samples, seed| student.slopes(parameters, samples, seed),
            regularize: &mut *penalty,
            score: &mut |parameters| {
                let judged = judged(parameters)?;
                let evaluator = Evaluator::new(&student.trained(&judged)?)?;
                Ok(score(&evaluator, self.checks, self.scorer)?.mean_loss())
            },
            keep: &mut |state| match &mut checkpoint {
                Some(checkpoint) => {
                    last = Some(state.clone());
                    checkpoint.keep(index, state, false)
                }
                None => Ok(()),
            },
        };
        let history =
            descend(&mut parameters, self.samples, &recipe, &mut descent, state, progress)?;
        if let (Some(checkpoint), Some(last)) = (&mut checkpoint, last) {
            checkpoint.keep(index, &last, true)?;
        }
        let model = student.trained(&parameters)?;
        let obstacles = student.obstacles().to_vec();
        Ok(Trained { model, parameters, history, obstacles })
    }
}
