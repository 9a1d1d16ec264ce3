use super::*;
use proptest::prelude::*;

fn failure() -> Box<Failure> {
    Box::new(Failure::new(FailureKind::Build, "it broke"))
}

fn routes() -> Vec<Route> {
    [(false, false), (true, false), (false, true), (true, true)].map(|(t, d)| Route::new(t, d)).into()
}

fn verdicts() -> Vec<Verdict> {
    vec![Verdict::Available, Verdict::Failed(failure()), Verdict::Cancelled]
}

fn states() -> Vec<State> {
    let mut all = vec![State::New];
    for stage in Stage::ALL {
        all.push(State::Running(stage));
        for verdict in verdicts() {
            for at_once in [false, true] {
                all.push(State::Stopping { stage, verdict: verdict.clone(), at_once });
            }
        }
    }
    for verdict in verdicts() {
        all.push(State::Undoing(verdict.clone()));
        all.push(State::Ended(verdict));
    }
    all
}

fn inputs() -> Vec<Input> {
    let mut all = vec![Input::Begin, Input::Cancel, Input::CancelNow, Input::TimedOut(9), Input::Undone];
    for stage in Stage::ALL {
        all.push(Input::Done(stage));
        all.push(Input::Failed(stage, failure()));
    }
    all
}

/// States and effects without the texts in failures.
fn shape(state: &State) -> String {
    state.describe() + if matches!(state, State::Stopping { at_once: true, .. }) { " at once" } else { "" }
}

fn shapes(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|e| match e {
            Effect::SetStatus(status, _) => format!("status {status}"),
            Effect::Start(stage) => format!("start {stage}"),
            Effect::Stop => "stop".into(),
            Effect::Abort => "abort".into(),
            Effect::Undo => "undo".into(),
            Effect::Finish(verdict) => format!("finish {}", verdict.as_str()),
        })
        .collect()
}

/// What every state does with every input, said a second time and differently: as a table of
/// rules over shapes. Whatever no rule names must change nothing.
fn expected(route: &Route, state: &State, input: &Input) -> Option<(String, Vec<String>)> {
    let undoing = |verdict: &str| {
        let effects = vec![format!("status {}", verdict.to_uppercase()), "undo".to_owned()];
        (format!("undoing, {verdict}"), effects)
    };
    let ended = |v: &Verdict| (format!("ended, {}", v.as_str()), vec![format!("finish {}", v.as_str())]);
    let stopping = |s: &Stage, v: &str, how: &str| {
        let tail = if how == "abort" { " at once" } else { "" };
        (format!("stopping {s}, {v}{tail}"), vec![how.to_owned()])
    };
    let running = |s: Stage, status: &str| {
        (format!("running {s}"), vec![format!("status {status}"), format!("start {s}")])
    };
    match (state, input) {
        (State::New, Input::Begin) => Some(running(Stage::Prepare, "CREATING")),
        (State::New, Input::Cancel | Input::CancelNow) => Some(undoing("cancelled")),
        (State::New, Input::TimedOut(_)) => Some(undoing("failed")),
        (State::Running(s), Input::Done(d)) if s == d => Some(match s {
            Stage::Prepare => running(Stage::Boot, "CREATING"),
            Stage::Boot => running(Stage::Provision, "BUILDING"),
            Stage::Provision => running(Stage::Seal, "BUILDING"),
            Stage::Seal => running(Stage::Capture, "BUILDING"),
            Stage::Capture if route.stages().contains(&Stage::Test) => running(Stage::Test, "TESTING"),
            Stage::Capture | Stage::Test if route.stages().contains(&Stage::Distribute) => {
                running(Stage::Distribute, "DISTRIBUTING")
            }
            Stage::Capture | Stage::Test | Stage::Distribute => undoing("available"),
        }),
        (State::Running(s), Input::Failed(d, _)) if s == d => Some(undoing("failed")),
        (State::Running(s), Input::Cancel) => Some(stopping(s, "cancelled", "stop")),
        (State::Running(s), Input::CancelNow) => Some(stopping(s, "cancelled", "abort")),
        (State::Running(s), Input::TimedOut(_)) => Some(stopping(s, "failed", "stop")),
        (State::Stopping { stage, verdict, .. }, Input::Done(d) | Input::Failed(d, _)) if stage == d => {
            Some(undoing(verdict.as_str()))
        }
        (State::Stopping { stage, verdict, at_once: false }, Input::CancelNow) => {
            Some(stopping(stage, verdict.as_str(), "abort"))
        }
        (State::Undoing(v), Input::Undone | Input::CancelNow) => Some(ended(v)),
        _ => None,
    }
}

#[test]
fn every_state_with_every_input_does_what_the_table_says() {
    let mut checked = 0;
    for route in routes() {
        for state in states() {
            for input in inputs() {
                let want = expected(&route, &state, &input).unwrap_or_else(|| (shape(&state), Vec::new()));
                let (after, effects) = next(&route, state.clone(), input.clone());
                assert_eq!((shape(&after), shapes(&effects)), want, "{} + {input:?}", shape(&state));
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 4 * (1 + 7 + 42 + 6) * 19);
}

/// A driver in miniature: it remembers what it was told to do, and answers honestly.
struct Mirror {
    route: Route,
    state: State,
    status: ImageStatus,
    /// The stage whose task is at work.
    task: Option<Stage>,
    undoing: bool,
    captured: bool,
    tested: bool,
    finals: u32,
    undos: u32,
    finishes: u32,
}

impl Mirror {
    fn new(route: Route) -> Mirror {
        Mirror {
            route,
            state: State::New,
            status: ImageStatus::Pending,
            task: None,
            undoing: false,
            captured: false,
            tested: false,
            finals: 0,
            undos: 0,
            finishes: 0,
        }
    }

    fn feed(&mut self, input: Input) {
        match &input {
            Input::Done(stage) | Input::Failed(stage, _) => {
                assert_eq!(self.task.take(), Some(*stage), "only a task at work ends");
                if matches!(input, Input::Done(_)) {
                    self.captured |= *stage == Stage::Capture;
                    self.tested |= *stage == Stage::Test;
                }
            }
            Input::Undone => assert!(std::mem::take(&mut self.undoing)),
            _ => {}
        }
        let (state, effects) = next(&self.route, self.state.clone(), input);
        self.state = state;
        for effect in effects {
            assert_eq!(self.finishes, 0, "nothing comes after the end");
            match effect {
                Effect::SetStatus(status, reason) => {
                    assert!(
                        self.status == status || self.status.may_become(status),
                        "{} to {status}",
                        self.status
                    );
                    assert_eq!(reason.is_some(), status == ImageStatus::Failed);
                    self.status = status;
                    self.finals += u32::from(status.is_final());
                    if status == ImageStatus::Available {
                        assert!(self.captured);
                        assert!(self.tested || !self.route.stages().contains(&Stage::Test));
                    }
                }
                Effect::Start(stage) => {
                    assert_eq!(self.finals, 0);
                    assert!(self.task.replace(stage).is_none(), "one task at a time");
                }
                Effect::Stop | Effect::Abort => assert!(self.task.is_some()),
                Effect::Undo => {
                    assert!(self.task.is_none(), "nothing is at work while its things are taken away");
                    self.undos += 1;
                    self.undoing = true;
                }
                Effect::Finish(_) => self.finishes += 1,
            }
        }
        assert!(self.finals <= 1 && self.undos <= 1 && self.finishes <= 1);
    }

    /// An input that may come in now, chosen by a number.
    fn possible(&self, choice: u8) -> Input {
        match (choice % 10, self.task) {
            (0, _) => Input::Cancel,
            (1, _) => Input::CancelNow,
            (2, _) => Input::TimedOut(60),
            (4, Some(stage)) => Input::Failed(stage, failure()),
            (_, Some(stage)) => Input::Done(stage),
            (_, None) if self.undoing => Input::Undone,
            (_, None) => Input::Begin,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_a_build_ends_once(
        test: bool, distribute: bool, choices in prop::collection::vec(any::<u8>(), 0..40)
    ) {
        let mut mirror = Mirror::new(Route::new(test, distribute));
        for choice in choices {
            let input = mirror.possible(choice);
            mirror.feed(input);
        }
        // From anywhere, answering what is asked for leads to the end.
        for _ in 0..20 {
            if let Some(stage) = mirror.task {
                mirror.feed(Input::Done(stage));
            } else if mirror.undoing {
                mirror.feed(Input::Undone);
            } else {
                mirror.feed(Input::Begin);
            }
        }
        prop_assert!(matches!(mirror.state, State::Ended(_)));
        prop_assert_eq!((mirror.finals, mirror.undos, mirror.finishes), (1, 1, 1));
        prop_assert!(mirror.status.is_final());
    }
}

#[test]
fn a_failure_names_its_stage_and_place() {
    let mut inner = failure();
    inner.component = Some("install".into());
    inner.step = Some("Install".into());
    let route = Route::new(true, false);
    let (_, effects) = next(&route, State::Running(Stage::Provision), Input::Failed(Stage::Provision, inner));
    let Effect::SetStatus(ImageStatus::Failed, Some(reason)) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(reason, "stage provision: component install, step Install, it broke");
}

#[test]
fn a_retry_begins_at_a_later_stage() {
    for (first, status) in
        [(Stage::Test, ImageStatus::Testing), (Stage::Distribute, ImageStatus::Distributing)]
    {
        let route = Route::new(true, true).from(first);
        let (state, effects) = next(&route, State::New, Input::Begin);
        assert_eq!(shape(&state), format!("running {first}"));
        assert_eq!(shapes(&effects), [format!("status {status}"), format!("start {first}")]);
        let (state, _) = next(&route, State::Running(Stage::Distribute), Input::Done(Stage::Distribute));
        assert_eq!(shape(&state), "undoing, available");
    }
    // Nothing is left to do: the image is what it was to be.
    let (state, _) = next(&Route::new(false, false).from(Stage::Test), State::New, Input::Begin);
    assert_eq!(shape(&state), "undoing, available");
}
