//! One request and its answer, as the rule for it has it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;

use super::Shared;
use super::line::Flow;
use super::record::Record;
use super::rule::Action;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Frames = BoxStream<'static, Result<Frame<Bytes>, Failure>>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// A reset throws away what was to be sent before it: what a rule lets pass is given time to leave.
const BEFORE_RESET: Duration = Duration::from_millis(50);
/// How often a throttled answer is given its share.
const THROTTLE_PERIOD: Duration = Duration::from_millis(100);

/// What the requests of one connection need.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) sender: SendRequest<Body>,
    pub(super) authority: Arc<str>,
    pub(super) number: u64,
}

impl Exchange {
    /// An error resets the stream.
    pub(super) async fn run(self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let taken = self.shared.rules.take(request.method().as_str(), &path);
        let record =
            self.shared.records.begin(self.number, request.method().as_str(), &path, taken.as_ref().map(|(id, _)| *id));
        let record = Arc::new(record);
        let line = &self.shared.line;
        let action = taken.map(|(_, action)| action);
        match action {
            Some(Action::Answer { status, headers, body }) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                let frames = stream::iter([Ok::<_, Infallible>(Frame::data(body))]);
                record.change(|passed| passed.status = Some(status));
                return Ok(response.body(counted(frames.map(never).boxed(), record))?);
            }
            Some(Action::Hang) => std::future::pending().await,
            Some(Action::Abort) => return Err("a rule aborts it".into()),
            Some(Action::AbortConnection) => {
                line.set(self.number, Flow::Reset);
                std::future::pending().await
            }
            Some(Action::Freeze) => line.set(self.number, Flow::Frozen),
            Some(Action::Delay(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        let is_altered = matches!(
            action,
            Some(Action::ReplaceBody(_) | Action::InjectWatchLine(_) | Action::Truncate(_) | Action::CutAfter(_))
        );
        let response = self.pass(request, &path, is_altered, record.clone()).await?;
        let (mut head, body) = response.into_parts();
        strip(&mut head.headers);
        if is_altered {
            head.headers.remove(CONTENT_LENGTH);
        }
        record.change(|passed| passed.status = Some(head.status.as_u16()));
        let frames = BodyStream::new(body).map(|frame| frame.map_err(Failure::from)).boxed();
        let frames: Frames = match action {
            Some(Action::LoseAnswer) => return Err("a rule loses the answer".into()),
            Some(Action::CutAfter(bytes)) => shortened(frames, bytes, true),
            Some(Action::Truncate(bytes)) => shortened(frames, bytes, false),
            Some(Action::Throttle(per_second)) => throttled(frames, per_second),
            Some(Action::ReplaceBody(replace)) => {
                let whole = http_body_util::BodyExt::collect(StreamBody::new(frames)).await?.to_bytes();
                stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(replace(&whole))))]).map(never).boxed()
            }
            Some(Action::InjectWatchLine(line)) => {
                stream::iter([Ok::<_, Infallible>(Frame::data(line))]).map(never).chain(frames).boxed()
            }
            _ => frames,
        };
        Ok(Response::from_parts(head, counted(frames, record)))
    }

    /// Passes a request on to the hub.
    async fn pass(
        &self,
        request: Request<Incoming>,
        path: &str,
        is_altered: bool,
        record: Arc<Record>,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut head, body) = request.into_parts();
        strip(&mut head.headers);
        if is_altered {
            // What is altered must be readable.
            head.headers.remove(ACCEPT_ENCODING);
        }
        head.uri = Uri::builder().scheme("https").authority(&*self.authority).path_and_query(path).build()?;
        head.version = http::Version::HTTP_2;
        let body = BodyStream::new(body).map(move |frame| {
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                record.change(|passed| passed.request_bytes += data.len() as u64);
            }
            frame.map_err(Failure::from)
        });
        let body = StreamBody::new(body).boxed_unsync();
        Ok(self.sender.clone().send_request(Request::from_parts(head, body)).await?)
    }
}

fn never<T>(frame: Result<T, Infallible>) -> Result<T, Failure> {
    frame.map_err(|never| match never {})
}

/// Headers that are about one connection, not about the request.
fn strip(headers: &mut HeaderMap) {
    for name in [CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

/// Notes what passes, and when it has ended: the record is dropped with the body.
fn counted(frames: Frames, record: Arc<Record>) -> Body {
    let frames = frames.map(move |frame| {
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            record.change(|passed| passed.answer_bytes += data.len() as u64);
        }
        frame
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The first `bytes` of a body; then it ends, or is reset.
fn shortened(frames: Frames, bytes: u64, is_reset: bool) -> Frames {
    let state = Some((frames, bytes));
    stream::unfold(state, move |state| async move {
        let (mut frames, left) = state?;
        if left == 0 {
            return cut(is_reset).await;
        }
        match frames.next().await? {
            Ok(frame) => {
                let Ok(mut data) = frame.into_data() else { return None };
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - data.len() as u64;
                Some((Ok(Frame::data(data)), Some((frames, left))))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

type Step = Option<(Result<Frame<Bytes>, Failure>, Option<(Frames, u64)>)>;

async fn cut(is_reset: bool) -> Step {
    if !is_reset {
        return None;
    }
    tokio::time::sleep(BEFORE_RESET).await;
    Some((Err("a rule cuts it".into()), None))
}

/// A body in small shares.
fn throttled(frames: Frames, per_second: u64) -> Frames {
    let share = (per_second as f64 * THROTTLE_PERIOD.as_secs_f64()).max(1.0) as usize;
    frames
        .flat_map(move |frame| -> Frames {
            let data = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(frame)) => return stream::iter([Ok(frame)]).boxed(),
                Err(error) => return stream::iter([Err(error)]).boxed(),
            };
            stream::unfold(data, move |mut data| async move {
                if data.is_empty() {
                    return None;
                }
                let part = data.split_to(share.min(data.len()));
                let time = THROTTLE_PERIOD.mul_f64(part.len() as f64 / share as f64);
                tokio::time::sleep(time).await;
                Some((Ok(Frame::data(part)), data))
            })
            .boxed()
        })
        .boxed()
}
