//! Panics of a seed: they are what it comes to, and not what it prints, so that output depends on the seed alone.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic in it, on this thread, becomes an error that says where it was. All other panics are printed as usual.
pub fn quietly<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let told = PANIC.with_borrow_mut(|told| match told {
                Some(text) => {
                    if text.is_empty() {
                        // The usual hook would print the number of the thread, which no two processes share.
                        let what = info.payload_as_str().unwrap_or("no message");
                        let at = info.location().map(ToString::to_string).unwrap_or_default();
                        *text = format!("panicked at {at}: {what}");
                    }
                    true
                }
                None => false,
            });
            if !told {
                usual(info);
            }
        }));
    });
    PANIC.set(Some(String::new()));
    let done = catch_unwind(AssertUnwindSafe(work));
    let told = PANIC.take().unwrap_or_default();
    let done = done.unwrap_or_else(|_| Err(told.clone()));
    if told.is_empty() { done } else { done.and(Err(told)) }
}
