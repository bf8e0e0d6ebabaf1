//! Which machine belongs to the body that runs on this thread.

use std::cell::RefCell;
use std::marker::PhantomData;

use super::Vm;

thread_local! {
    static CURRENT: RefCell<Vec<Vm>> = const { RefCell::new(Vec::new()) };
}

/// Makes `vm` what `Vm::current()` gives on this thread, until the guard is dropped.
#[doc(hidden)]
pub fn enter(vm: Vm) -> Guard {
    CURRENT.with_borrow_mut(|stack| stack.push(vm));
    Guard(PhantomData)
}

pub(super) fn get() -> Option<Vm> {
    // Not there any more while the thread's own values are dropped.
    CURRENT
        .try_with(|stack| stack.borrow().last().cloned())
        .ok()
        .flatten()
}

/// Ends what `enter` began; bound to its thread.
#[doc(hidden)]
#[derive(Debug)]
#[must_use = "dropping it ends what it guards"]
pub struct Guard(PhantomData<*const ()>);

impl Drop for Guard {
    fn drop(&mut self) {
        // Taken out first: the last handle of a machine must not be dropped while the stack is borrowed.
        let ended = CURRENT.try_with(|stack| stack.borrow_mut().pop());
        drop(ended);
    }
}
