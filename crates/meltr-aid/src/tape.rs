//! What the tape of a module keeps for the backward pass.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, GradientCheckpointingStrategy, Int, Tensor};

/// `module`, which is on a tape, on one with this strategy. Copies no data; parameters keep their
/// ids, and those that are tracked stay so.
///
/// `Balanced` keeps the results of products and computes those of elementwise operations again in
/// the backward pass (gradient checkpointing), `Disabled` keeps everything. burn refuses to mix
/// both in one operation, so data and other modules have to be on the same tape, or on none. Tensors
/// that a module holds beside its parameters stay as they are.
///
/// Estimators take a module with either: whatever they derive from it has its strategy.
///
/// # Panics
///
/// Panics if a parameter is on no tape.
#[must_use]
pub fn with_checkpointing_strategy<M: Module>(
    module: M,
    strategy: GradientCheckpointingStrategy,
) -> M {
    module.map(&mut Strategy(strategy))
}

/// `module` on a tape with the strategy of `like`, where [`Module::train`] gives one that keeps
/// everything.
pub(crate) fn train_like<M: Module>(module: M, like: &M) -> M {
    with_checkpointing_strategy(module.train(), strategy_of(like))
}

/// The strategy of the tape of `module`; the default if it is on none.
pub(crate) fn strategy_of<M: Module>(module: &M) -> GradientCheckpointingStrategy {
    let device = module.devices().into_iter().next();
    device
        .and_then(|device| device.gradient_checkpointing_strategy())
        .unwrap_or_default()
}

struct Strategy(GradientCheckpointingStrategy);

impl ModuleMapper for Strategy {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let value = value.with_gradient_checkpointing_strategy(self.0);
        Param::from_mapped_value(id, value, mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let (id, value, mapper) = param.consume();
        let value = value.with_gradient_checkpointing_strategy(self.0);
        Param::from_mapped_value(id, value, mapper)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let (id, value, mapper) = param.consume();
        let value = value.with_gradient_checkpointing_strategy(self.0);
        Param::from_mapped_value(id, value, mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::ParamId;
    use burn::tensor::Device;

    use super::*;
    use crate::params::ParamVector;

    const BALANCED: GradientCheckpointingStrategy = GradientCheckpointingStrategy::Balanced;

    /// Rows of a table.
    #[derive(Module, Debug)]
    struct Rows {
        table: Param<Tensor<2>>,
        places: Param<Tensor<1, Int>>,
    }

    impl Rows {
        /// On a tape that keeps everything.
        fn new() -> Self {
            let device = Device::default();
            let table = Tensor::<2>::from_floats([[0.5, -1.0], [2.0, 0.25], [1.5, 3.0]], &device);
            let places = Tensor::<1, Int>::from_data([2, 0, 2], &device);
            Self {
                table: Param::from_tensor(table),
                places: Param::initialized(ParamId::new(), places),
            }
            .train()
        }

        fn strategies(&self) -> [Option<GradientCheckpointingStrategy>; 2] {
            [
                self.table.val().gradient_checkpointing_strategy(),
                self.places.val().gradient_checkpointing_strategy(),
            ]
        }

        fn loss(&self) -> Tensor<1> {
            let rows = self.table.val().select(0, self.places.val());
            (rows.clone().exp() * rows.tanh()).sum()
        }
    }

    fn gradient(module: &Rows) -> Vec<f64> {
        ParamVector::from_gradients(&mut module.loss().backward(), module).to_vec()
    }

    #[test]
    fn another_strategy_changes_neither_parameters_nor_gradients() {
        let keeping = Rows::new();
        let recomputing = with_checkpointing_strategy(keeping.clone(), BALANCED);
        assert_eq!(recomputing.strategies(), [Some(BALANCED); 2]);
        assert_eq!(recomputing.table.id, keeping.table.id);
        assert!(recomputing.table.val().is_require_grad());
        assert_eq!(gradient(&recomputing), gradient(&keeping));
        assert_eq!(gradient(&recomputing).len(), 6);
        // The module that it was made of is as before.
        let kept = GradientCheckpointingStrategy::Disabled;
        assert_eq!(keeping.strategies(), [Some(kept); 2]);
    }

    #[test]
    fn what_is_derived_from_a_module_has_its_strategy() {
        let module = with_checkpointing_strategy(Rows::new(), BALANCED);
        assert_eq!(strategy_of(&module), BALANCED);
        let again = train_like(module.valid(), &module);
        assert_eq!(again.strategies(), [Some(BALANCED); 2]);
        assert!(again.table.val().is_require_grad());
        let direction = ParamVector::from_parameters(&module).as_untracked_module(&module);
        assert!(!direction.table.val().is_require_grad());
        // burn refuses to mix strategies.
        let product = direction.table.val() * module.table.val();
        assert_eq!(product.gradient_checkpointing_strategy(), Some(BALANCED));
        assert!(product.is_tracked());
    }
}
