//! Views and named edits of a graph: who makes and reads a value, which values are constant, and
//! changes that keep the graph valid.

mod constants;
mod edit;
mod fold;
mod functions;
mod hoist;
mod inputs;
mod links;
mod names;
mod piece;
mod spell;

pub use constants::{Constant, Source, constant_tensor, constants, is_switch};
pub use edit::{
    add_initializer, drop_value_info, remove_unused_constants, replace_node, set_constant,
};
pub use fold::fold_addition;
pub use functions::inline_functions;
pub use hoist::{body_nodes, hoist_constants};
pub use inputs::{InputSpec, inputs, outputs, pin_batch, restore_batch};
pub use links::{Consumer, Links};
pub use names::{NameAllocator, captured, fresh_name};
pub use piece::{Piece, pieces};
pub use spell::spell_out;

#[cfg(test)]
mod tests;
