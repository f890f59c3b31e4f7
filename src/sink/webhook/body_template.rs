//! The body of a request: the event itself, or what a template makes of it.

use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;

use crate::event::{Event, decode_summary};
use crate::lenient_json;
use crate::model::Artifact;
use crate::render::Conversation;
use crate::sink::{SinkError, SinkErrorKind};

const NAME: &str = "template";

/// Builds bodies.
pub(super) struct BodyTemplate {
    environment: Environment<'static>,
    /// Whether the body must be JSON.
    is_json: bool,
}

impl BodyTemplate {
    /// Checks the template with events of every kind.
    ///
    /// # Errors
    /// If it is invalid, or makes no JSON although the body's type is JSON.
    pub(super) fn new(text: &str, content_type: &str) -> Result<BodyTemplate, SinkError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .add_template_owned(NAME, text.to_owned())
            .map_err(|error| SinkError::unavailable(format!("the sink's template is invalid: {}", describe(&error))))?;
        let template = BodyTemplate { environment, is_json: content_type.contains("json") };
        for event in Event::samples() {
            template.render(&event, &event.cloud_event()).map_err(|error| SinkError {
                message: format!(
                    "the sink's template fails with an event of type {}: {}",
                    event.type_name(),
                    error.message
                ),
                ..error
            })?;
        }
        Ok(template)
    }

    /// The body for an event, whose JSON is `json`.
    ///
    /// # Errors
    /// If the template fails. That concerns this event only.
    pub(super) fn render(&self, event: &Event, json: &[u8]) -> Result<Vec<u8>, SinkError> {
        let mut context = lenient_json::from_slice::<Value>(json).unwrap_or(Value::Null);
        if let Value::Object(context) = &mut context {
            context.insert("text".to_owned(), plain_text(event).into());
        }
        let refused = |message: String| SinkError::new(SinkErrorKind::Refused, message).with_hint(TEMPLATE_HINT);
        let rendered =
            self.environment.get_template(NAME).and_then(|template| template.render(minijinja::value::Serde(&context)));
        let body = rendered.map_err(|error| refused(describe(&error)))?;
        if self.is_json
            && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&body)
        {
            return Err(refused(format!("it makes no JSON: line {}, column {}", error.line(), error.column())));
        }
        Ok(body.into_bytes())
    }
}

const TEMPLATE_HINT: &str =
    "write texts as {{ text | tojson }}, without quotes around it, or set content_type to what the template makes";

/// The content as people read it.
fn plain_text(event: &Event) -> String {
    match event.kind.artifact() {
        Some(Artifact::Transcript) => {
            Conversation::parse(&event.body).map(|conversation| conversation.to_plain_text()).unwrap_or_default()
        }
        Some(Artifact::AgentSummary | Artifact::AutoSummary) => decode_summary(&event.body),
        Some(Artifact::Recording) => String::new(),
        None => {
            let texts: Vec<String> = event.parts.iter().map(plain_text).filter(|text| !text.is_empty()).collect();
            texts.join("\n\n")
        }
    }
}

/// What is wrong, and where. It quotes no value of the event.
fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    format!("{}{line}", error.kind())
}
