//! The one driver of an isolate, with its input and output buffers.

use std::cell::RefCell;

use edge_limiter::driver::{Driver, TaskOutcome};
use edge_limiter::headers;
use edge_limiter::tasks::{TaskId, TaskStep};
use edge_limiter::wire::{self, EncodedStep, StepKind};
use serde_json::json;
use worker::Env;

use crate::platform::Runtime;
use crate::vars;

struct Host {
    driver: Driver<Runtime>,
    /// The buffer into which JavaScript writes a text before a call.
    input: Vec<u8>,
    /// The last step.
    step: EncodedStep,
    /// The address and the length in bytes of the step's text, then the step's own numbers.
    numbers: [u32; 5],
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host {
        driver: Driver::new(Runtime),
        input: Vec::new(),
        step: EncodedStep::default(),
        numbers: [0; 5],
    });
}

pub(crate) fn configure(env: &Env, reach: u32, client: u32) -> Result<String, String> {
    let (vars, has_origin_binding) = vars::read(env);
    let capabilities = wire::capabilities(has_origin_binding, reach, client);
    let setup = HOST.with_borrow_mut(|host| host.driver.configure(&vars, capabilities));
    let setup = setup.map_err(|error| error.to_string())?;
    Ok(json!({
        "number": setup.number, "header": setup.client_ip_header, "redis": setup.redis.as_ref().map(wire::server),
        "notForwarded": headers::NOT_FORWARDED.join(","), "otherSpellingsNotForwarded": setup.other_spellings_not_forwarded.join(","),
    })
    .to_string())
}

pub(crate) fn room(bytes: usize) -> usize {
    HOST.with_borrow_mut(|host| {
        // The old buffer is freed even if it is longer, so that a large text does not keep its memory.
        host.input = vec![0; bytes];
        host.input.as_ptr() as usize
    })
}

pub(crate) fn numbers() -> usize {
    HOST.with_borrow(|host| host.numbers.as_ptr() as usize)
}

pub(crate) fn select(number: u32) -> bool {
    HOST.with_borrow_mut(|host| host.driver.select(number))
}

pub(crate) fn begin(length: usize) -> u32 {
    start(length, |driver, text| driver.begin(wire::fields(text)))
}

pub(crate) fn limit(length: usize) -> u32 {
    start(length, |driver, text| driver.limit(wire::fields(text)))
}

pub(crate) fn control_plane(length: usize) -> u32 {
    start(length, |driver, text| {
        driver.control_plane(wire::fields(text))
    })
}

pub(crate) fn operate(length: usize) -> u32 {
    start(length, |driver, text| driver.operate(wire::operation(text)))
}

pub(crate) fn application(length: usize) -> u32 {
    start(length, |driver, text| driver.application(text.to_owned()))
}

/// Begins the task that the text in the buffer describes, and returns the kind of its first step.
fn start(length: usize, begin: fn(&mut Driver<Runtime>, &str) -> TaskStep<TaskOutcome>) -> u32 {
    HOST.with_borrow_mut(|host| {
        let text = String::from_utf8_lossy(host.input.get(..length).unwrap_or_default());
        let step = begin(&mut host.driver, &text);
        let kind = host.step.write(step);
        host.expose(kind)
    })
}

pub(crate) fn resume(task: u32, kind: u32, status: u32, length: usize) -> u32 {
    HOST.with_borrow_mut(|host| {
        let result = wire::answer(kind, status, host.text(length));
        let step = host.driver.resume(TaskId::from_number(task), result);
        let kind = host.step.write(step);
        host.expose(kind)
    })
}

pub(crate) fn replies(length: usize) -> u32 {
    HOST.with_borrow_mut(|host| {
        let input = host.input.get(..length).unwrap_or_default();
        let status = host.step.replies(input);
        host.expose(StepKind::Done);
        status
    })
}

pub(crate) fn duty() -> u32 {
    HOST.with_borrow_mut(|host| {
        let step = host.driver.next_duty();
        host.begin_background(step)
    })
}

pub(crate) fn tend() -> u32 {
    HOST.with_borrow_mut(|host| {
        let step = host.driver.run_schedule();
        host.begin_background(step)
    })
}

pub(crate) fn forwarded(sample: u32, status: u16) {
    HOST.with_borrow_mut(|host| host.driver.forwarded(sample, status));
}

pub(crate) fn bad_gateway(status: u16) -> u32 {
    HOST.with_borrow_mut(|host| {
        let kind = host.step.answer(&host.driver.bad_gateway(status));
        host.expose(kind)
    })
}

pub(crate) fn redirected(length: usize) -> bool {
    HOST.with_borrow_mut(|host| {
        let rewritten = wire::redirected(&host.text(length));
        let leads_to_origin = rewritten.is_some();
        host.step.text = rewritten.unwrap_or_default();
        host.expose(StepKind::Done);
        leads_to_origin
    })
}

impl Host {
    fn text(&self, length: usize) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.input.get(..length).unwrap_or_default())
    }

    /// Writes the first step of a task that belongs to no request, and returns its kind. Without a step, the kind is
    /// [`StepKind::Done`].
    fn begin_background(&mut self, step: Option<TaskStep<TaskOutcome>>) -> u32 {
        match step {
            Some(step) => {
                let kind = self.step.write(step);
                self.expose(kind)
            }
            None => StepKind::Done as u32,
        }
    }

    /// Puts the numbers of the last step where JavaScript reads them, and returns the step's kind as a number.
    fn expose(&mut self, kind: StepKind) -> u32 {
        let [task, first, second] = self.step.numbers;
        let text = &self.step.text;
        // On wasm32, addresses and lengths have 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        let (address, length) = (text.as_ptr() as usize as u32, text.len() as u32);
        self.numbers = [address, length, task, first, second];
        kind as u32
    }
}
