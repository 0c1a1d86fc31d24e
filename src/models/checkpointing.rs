//! What a stack of blocks keeps of its forward pass for its backward pass: memory against computing twice.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The policy of a stack. Gradients are the same to the bit under all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkpointing {
    /// All activations: fastest, and the memory of every block at once.
    #[default]
    Everything,
    /// All activations of every n-th block, the inputs of the others; written `{ every = n }`.
    Every(usize),
    /// Inputs of the blocks; each block computes its forward pass again. About a third more time.
    BlockInputs,
}

/// What was kept of one block: its input `I`, or all that its backward pass needs.
#[derive(Debug, Clone)]
pub enum Kept<I, S> {
    Input(I),
    Everything(S),
}

impl Checkpointing {
    /// What is kept of block number `block`; the rest is dropped here.
    pub fn keep<I, S>(self, block: usize, input: I, saved: S) -> Kept<I, S> {
        let all = match self {
            Self::Everything => true,
            Self::Every(n) => block.is_multiple_of(n.max(1)),
            Self::BlockInputs => false,
        };
        if all { Kept::Everything(saved) } else { Kept::Input(input) }
    }
}

impl<I, S> Kept<I, S> {
    /// Runs the backward pass, after the forward pass `again` where only the input was kept.
    pub fn backward<R>(self, again: impl FnOnce(&I) -> Result<S>, backward: impl FnOnce(S) -> Result<R>) -> Result<R> {
        match self {
            Self::Everything(saved) => backward(saved),
            Self::Input(input) => backward(again(&input)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(policy: Checkpointing) -> Vec<bool> {
        (0..5).map(|block| matches!(policy.keep(block, (), ()), Kept::Everything(()))).collect()
    }

    #[test]
    fn a_policy_keeps_what_it_says() {
        assert_eq!(kept(Checkpointing::Everything), [true; 5]);
        assert_eq!(kept(Checkpointing::Every(2)), [true, false, true, false, true]);
        assert_eq!(kept(Checkpointing::BlockInputs), [false; 5]);
    }

    #[test]
    fn policies_are_written_as_documented() {
        #[derive(Deserialize)]
        struct Line {
            checkpointing: Checkpointing,
        }
        let read = |text: &str| toml::from_str::<Line>(text).map(|line| line.checkpointing);
        assert_eq!(read("checkpointing = \"everything\"").unwrap(), Checkpointing::Everything);
        assert_eq!(read("checkpointing = { every = 4 }").unwrap(), Checkpointing::Every(4));
        assert_eq!(read("checkpointing = \"block-inputs\"").unwrap(), Checkpointing::BlockInputs);
        assert!(read("checkpointing = \"nothing\"").is_err());
    }
}
