//! One connection: handshake, heartbeats, and a thread per request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kiln_protocol::frame::{Frame, Kind};
use kiln_protocol::message::{ErrorKind, FromAgent, FromHost, Hello, Mode, Operation};
use kiln_protocol::{OLDEST, VERSION};

use crate::error::failed;
use crate::link::{Link, Reader};
use crate::operation;
use crate::request::{Cancel, Order, Request};
use crate::{facts, process, renew};

/// Requests at work at one time; more are turned away.
const MOST_REQUESTS: usize = 64;

/// A request's thread recurses little; the default of 2 MiB is much for a small guest.
const STACK: usize = 512 * 1024;

/// How long requests may take to end once the link is gone.
const WIND_DOWN: Duration = Duration::from_secs(10);

pub struct Identity {
    pub nonce: String,
    pub mode: Mode,
}

pub enum End {
    /// The host does not want this agent.
    Refused(String),
    /// The connection ended, for this reason.
    Lost(String),
}

/// Requests at work, by their id.
#[derive(Default)]
struct Requests {
    table: Mutex<HashMap<u32, Arc<Request>>>,
    left: Condvar,
}

impl Requests {
    fn get(&self, id: u32) -> Option<Arc<Request>> {
        self.table.lock().unwrap().get(&id).cloned()
    }

    /// False: there are too many already.
    fn enter(&self, request: &Arc<Request>) -> bool {
        let mut table = self.table.lock().unwrap();
        let room = table.len() < MOST_REQUESTS;
        if room {
            table.insert(request.id, request.clone());
        }
        room
    }

    fn leave(&self, id: u32) {
        self.table.lock().unwrap().remove(&id);
        self.left.notify_all();
    }

    /// Ends all that is at work, and waits for it.
    fn wind_down(&self) {
        let table = self.table.lock().unwrap();
        table.values().for_each(|request| request.cancel(Cancel::LinkLost));
        let _ = self.left.wait_timeout_while(table, WIND_DOWN, |table| !table.is_empty());
    }
}

/// Serves one connection to its end. Nothing that it started for a request still runs afterwards.
pub fn serve(link: Link, identity: &mut Identity) -> End {
    let link = Arc::new(link);
    let mut reader = link.reader();
    let beat = match shake_hands(&link, &mut reader, identity) {
        Ok(beat) => beat,
        Err(end) => return end,
    };
    let over = Arc::new(AtomicBool::new(false));
    let heart = {
        let (link, over) = (link.clone(), over.clone());
        thread::spawn(move || beats(&link, beat, &over))
    };
    let requests = Arc::new(Requests::default());
    let reason = loop {
        let step = reader.next().and_then(|frame| dispatch(frame, &link, &requests, identity.mode));
        if let Err(reason) = step {
            break reason;
        }
    };
    link.give_up();
    over.store(true, Ordering::SeqCst);
    heart.thread().unpark();
    requests.wind_down();
    End::Lost(reason)
}

/// Greets until the host is content: it may have it renewed what it greets with.
fn shake_hands(link: &Link, reader: &mut Reader, identity: &mut Identity) -> Result<Duration, End> {
    loop {
        let hello = Hello {
            oldest: OLDEST,
            newest: VERSION,
            agent: env!("CARGO_PKG_VERSION").into(),
            nonce: identity.nonce.clone(),
            boot_id: facts::boot_id(),
            architecture: std::env::consts::ARCH.into(),
            mode: identity.mode,
        };
        link.control(0, &FromAgent::Hello(hello)).map_err(|e| End::Lost(e.to_string()))?;
        let frame = reader.next().map_err(End::Lost)?;
        match control(&frame).map_err(End::Lost)? {
            FromHost::Welcome { version, beat_ms } if (OLDEST..=VERSION).contains(&version) => {
                return Ok(Duration::from_millis(beat_ms.max(10).into()));
            }
            FromHost::Welcome { version, .. } => {
                let text = format!("it speaks version {version}, this agent {OLDEST} to {VERSION}");
                return Err(End::Refused(text));
            }
            FromHost::Refused { reason } => return Err(End::Refused(reason)),
            FromHost::Renew(renew) => {
                if let Err(failed) = renew::renew(&renew, identity.mode) {
                    let reason = failed.message.clone();
                    let _ = link.control(0, &FromAgent::Failed(failed));
                    return Err(End::Lost(reason));
                }
                identity.nonce = renew.nonce;
            }
            _ => return Err(End::Lost("something else came instead of a welcome".into())),
        }
    }
}

fn control(frame: &Frame) -> Result<FromHost, String> {
    if frame.kind != Kind::Control {
        return Err("data came where a message belongs".into());
    }
    serde_json::from_slice(&frame.payload).map_err(|e| format!("message not understood: {e}"))
}

fn beats(link: &Link, every: Duration, over: &AtomicBool) {
    let mut sequence = 0;
    while !over.load(Ordering::SeqCst) {
        sequence += 1;
        let beat = FromAgent::Beat { sequence, memory_available: facts::memory().1 };
        if link.control(0, &beat).is_err() {
            return;
        }
        process::reap_orphans();
        let next = Instant::now() + every;
        while !over.load(Ordering::SeqCst) && Instant::now() < next {
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
    }
}

/// An error ends the connection. A request that is over already is no error: the two ends may cross.
fn dispatch(frame: Frame, link: &Arc<Link>, requests: &Arc<Requests>, mode: Mode) -> Result<(), String> {
    let known = requests.get(frame.id);
    match frame.kind {
        Kind::Control => {}
        Kind::Input => {
            return match known {
                Some(request) if !request.add_input(frame.payload) => {
                    Err(format!("the host sent more input to request {} than it may", frame.id))
                }
                _ => Ok(()),
            };
        }
        Kind::Output | Kind::ErrorOutput => return Err("the host sent output".into()),
    }
    match (control(&frame)?, known) {
        (FromHost::Request(_), Some(_)) => Err(format!("request {} exists already", frame.id)),
        (FromHost::Request(operation), None) => {
            begin(frame.id, *operation, link, requests, mode);
            Ok(())
        }
        (FromHost::Welcome { .. } | FromHost::Refused { .. } | FromHost::Renew(_), _) => {
            Err("a second handshake".into())
        }
        (_, None) => Ok(()),
        (FromHost::Credit { bytes }, Some(request)) => {
            request.add_credit(bytes);
            Ok(())
        }
        (FromHost::Signal { number }, Some(request)) => {
            request.order(Order::Signal(number));
            Ok(())
        }
        (FromHost::Resize(terminal), Some(request)) => {
            request.order(Order::Resize(terminal));
            Ok(())
        }
        (FromHost::Cancel, Some(request)) => {
            request.cancel(Cancel::Asked);
            Ok(())
        }
    }
}

fn begin(id: u32, operation: Operation, link: &Arc<Link>, requests: &Arc<Requests>, mode: Mode) {
    let request = Arc::new(Request::new(id, link.clone()));
    let turn_away = |why: String| request.finish(&FromAgent::Failed(failed(ErrorKind::Io, why)));
    if !requests.enter(&request) {
        return turn_away(format!("{MOST_REQUESTS} requests are at work already"));
    }
    let work = {
        let (request, requests, link) = (request.clone(), requests.clone(), link.clone());
        move || {
            let answer = operation::perform(&request, operation, mode);
            // Out of the table first: the host may use the answer to ask again at once.
            requests.leave(id);
            request.finish(&answer.message);
            if let Some(afterwards) = answer.afterwards {
                link.flush();
                afterwards();
            }
        }
    };
    if let Err(e) = thread::Builder::new().stack_size(STACK).spawn(work) {
        requests.leave(id);
        turn_away(format!("start a thread: {e}"));
    }
}
