//! The event loop of one execution: microtasks, then one timer, then again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use anchorhold_javascript_shared::output;
use boa_engine::builtins::promise::PromiseState;
use boa_engine::job::{Job, JobExecutor, NativeAsyncJob};
use boa_engine::object::builtins::JsPromise;
use boa_engine::{Context, JsResult, JsValue};

use crate::ending::Ending;
use crate::hooks::Hooks;
use crate::kernel::{Kernel, Step};

/// Longest sleep without a look at the stop request. The host cannot wake a sleeping guest.
const SLEEP_SLICE: Duration = Duration::from_millis(10);

/// Jobs of the engine in the order in which they came.
#[derive(Default)]
pub struct Queue {
    jobs: RefCell<VecDeque<Job>>,
}

impl JobExecutor for Queue {
    fn enqueue_job(self: Rc<Self>, job: Job, _context: &mut Context) {
        self.jobs.borrow_mut().push_back(job);
    }

    fn run_jobs(self: Rc<Self>, context: &mut Context) -> JsResult<()> {
        while let Some(ran) = self.run_one(context) {
            ran?;
        }
        Ok(())
    }
}

impl Queue {
    fn run_one(&self, context: &mut Context) -> Option<JsResult<()>> {
        let job = self.jobs.borrow_mut().pop_front()?;
        let ran = match job {
            Job::PromiseJob(job) => job.call(context),
            Job::GenericJob(job) => job.call(context),
            Job::AsyncJob(job) => finish(job, context),
            // Clean-ups of a `FinalizationRegistry` may never come, and timers are the prelude's.
            _ => Ok(JsValue::undefined()),
        };
        context.clear_kept_objects();
        Some(ran.map(drop))
    }

    /// Drops what an ended execution left, so that nothing of it runs in a later one.
    pub fn clear(&self) {
        self.jobs.borrow_mut().clear();
    }
}

/// The only asynchronous jobs are imports, and `modules.rs` never waits.
fn finish(job: NativeAsyncJob, context: &mut Context) -> JsResult<JsValue> {
    let context = RefCell::new(context);
    let mut future = pin!(job.call(&context));
    loop {
        let polled = future.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
        if let Poll::Ready(result) = polled {
            return result;
        }
    }
}

/// What the loop works on.
pub struct Loop<'a> {
    pub context: &'a mut Context,
    pub kernel: &'a Kernel,
    pub queue: &'a Queue,
    pub hooks: &'a Hooks,
}

impl Loop<'_> {
    /// Runs until `main`, if there is one, is settled and nothing is pending. `None`: nothing can ever settle it.
    pub fn run(&mut self, main: Option<&JsPromise>) -> Result<Option<JsValue>, Ending> {
        loop {
            self.microtasks()?;
            if let Some(PromiseState::Rejected(reason)) = main.map(JsPromise::state) {
                return Err(Ending::Thrown(reason));
            }
            if let Some(reason) = self.hooks.take_rejection() {
                return Err(Ending::Thrown(reason));
            }
            match self.kernel.step(self.context) {
                Err(error) => return Err(Ending::of(error, self.context)),
                Ok(Step::Ran) => {}
                Ok(Step::Wait(delay)) => sleep(delay)?,
                Ok(Step::Idle) => break,
            }
        }
        let Some(main) = main else {
            return Ok(Some(JsValue::undefined()));
        };
        Ok(main.state().as_fulfilled().cloned())
    }

    /// `process.nextTick` callbacks go first, as in Node; each round may queue more of either.
    fn microtasks(&mut self) -> Result<(), Ending> {
        loop {
            let mut ran = match self.kernel.run_ticks(self.context) {
                Ok(ran) => ran,
                Err(error) => return Err(Ending::of(error, self.context)),
            };
            while let Some(result) = self.queue.run_one(self.context) {
                ran = true;
                // The engine drops the error of an `async` function that was interrupted after an `await`.
                if let Some(ending) = Ending::requested() {
                    return Err(ending);
                }
                result.map_err(|error| Ending::of(error, self.context))?;
            }
            if let Some(ending) = Ending::requested() {
                return Err(ending);
            }
            if !ran {
                return Ok(());
            }
        }
    }
}

fn sleep(delay: Duration) -> Result<(), Ending> {
    output::flush();
    let mut left = delay;
    while !left.is_zero() {
        let slice = left.min(SLEEP_SLICE);
        std::thread::sleep(slice);
        left -= slice;
        if let Some(ending) = Ending::requested() {
            return Err(ending);
        }
    }
    Ok(())
}
