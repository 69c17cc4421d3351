//! One training of a model, from its constants to a model with better ones.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{
    Augmentation, Checkpoint, Descent, Grids, History, Judgement, Parameter, Penalty, Recipe,
    Student, descend, trainable,
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
    /// As many of the samples that are trained on, and what scores outputs on them: see
    /// [`Judgement`]. None where the scores need no labels.
    pub probe: Option<(&'a Samples, &'a Scorer)>,
    /// What the loss is made of.
    pub objective: Objective,
    /// Values that are to be as in the original, each with its weight in the loss; `original` must
    /// observe them.
    pub matched: &'a [(&'a str, f64)],
    /// Bytes that values kept for the way back may take.
    pub memory: Option<usize>,
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
    /// What parameters are rounded to whenever the model is run: gradients pass by the rounding.
    pub grids: Option<Grids>,
}

/// A trained model.
pub struct Trained {
    /// The model.
    pub model: Model,
    /// Its parameters; where there are grids not rounded, with the moves of steps.
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
        let (original, data) = (self.original, self.data);
        let mut student =
            Student::matching(model, &names, original, data, self.scorer, self.matched)?;
        student.objective = self.objective;
        student.augmentation = self.augmentation;
        if let Some(bytes) = self.memory {
            let bound = student.bind(bytes)?;
            log::info!(target: "tune", "runs of {} samples in {} stretches, {} at a time: {} bytes each",
                bound.samples, bound.stretches, bound.at_once, bound.bytes);
        }
        // Where time is short a pass over all samples may be too much.
        if self.recipe.time.is_none() && self.recipe.epochs >= 2.0 {
            student.remember(self.samples)?;
        }
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
        let known = self.probe.map(|(_, scorer)| scorer.reference_score()).transpose()?;
        let known = known.map(|score| score.mean_loss());
        let Aim { mut penalty, judged, grids } = aim(&parameters)?;
        if let Some(grids) = &grids {
            parameters = grids.begin(parameters);
        }
        let mut last = None;
        let mut descent = Descent {
            slopes: &|parameters, samples, seed| {
                let slopes = student.slopes(&counted(&grids, parameters), samples, seed)?;
                Ok(match &grids {
                    Some(grids) => {
                        slopes.into_par_iter().map(|s| grids.back(parameters, s)).collect()
                    }
                    None => slopes,
                })
            },
            regularize: &mut *penalty,
            score: &mut |parameters| {
                let judged = judged(&counted(&grids, parameters))?;
                let evaluator = Evaluator::new(&student.trained(&judged)?)?;
                let of = |(samples, scorer)| -> Result<f64> {
                    Ok(score(&evaluator, samples, scorer, progress)?.mean_loss())
                };
                let held = of((self.checks, self.scorer))?;
                Ok(Judgement { held, fitted: self.probe.map(of).transpose()? })
            },
            known,
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
        let model = student.trained(&counted(&grids, &parameters))?;
        let obstacles = student.obstacles().to_vec();
        Ok(Trained { model, parameters, history, obstacles })
    }
}

/// What parameters count as when the model is run.
fn counted<'p>(grids: &Option<Grids>, parameters: &'p [Parameter]) -> Cow<'p, [Parameter]> {
    match grids {
        Some(grids) => Cow::Owned(grids.rounded(parameters)),
        None => Cow::Borrowed(parameters),
    }
}
