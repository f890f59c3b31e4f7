//! The readable page of the API, rendered from its description.

use maud::{Markup, html};
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr, Required};

use crate::http::templates;

/// Renders the page.
pub(super) fn render(document: &OpenApi) -> String {
    let operations = document.paths.paths.iter().flat_map(|(path, item)| {
        let methods =
            [(HttpMethod::Get, &item.get), (HttpMethod::Post, &item.post), (HttpMethod::Delete, &item.delete)];
        methods.into_iter().filter_map(move |(method, operation)| Some((path, method, operation.as_ref()?)))
    });
    let body = html! {
        body {
            header { h1 { "API" } nav { a href="/" { "Dashboard" } } }
            main {
                p { (document.info.description.as_deref().unwrap_or_default()) }
                p {
                    "Send " code { "Authorization: Bearer KEY" } " with a key of " code { "[[access.keys]]" } " or "
                    code { "http.token" } ". Errors are " code { "application/problem+json" } ". "
                    a href="/api/openapi.json" { "OpenAPI document" }
                }
                @for (path, method, operation) in operations { (section(path, &method, operation)) }
            }
        }
    };
    templates::static_page("API", &body)
}

/// The parameter, if it is described in place; this description has no others.
fn inline(parameter: &RefOr<Parameter>) -> Option<&Parameter> {
    match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    }
}

fn section(path: &str, method: &HttpMethod, operation: &Operation) -> Markup {
    let method = match method {
        HttpMethod::Post => "POST",
        HttpMethod::Delete => "DELETE",
        _ => "GET",
    };
    html! {
        section {
            h2 { code { (method) " " (path) } }
            p { (operation.summary.as_deref().unwrap_or_default()) }
            @if let Some(description) = &operation.description { p { (description) } }
            @if let Some(parameters) = &operation.parameters {
                table {
                    thead { tr { th { "parameter" } th { "in" } th { "meaning" } } }
                    tbody {
                        @for parameter in parameters.iter().filter_map(inline) {
                            tr {
                                td { code { (parameter.name) } @if parameter.required == Required::True { " (required)" } }
                                td {
                                    @match parameter.parameter_in {
                                        ParameterIn::Path => "path",
                                        ParameterIn::Header => "header",
                                        _ => "query",
                                    }
                                }
                                td { (parameter.description.as_deref().unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
            ul {
                @for (status, response) in &operation.responses.responses {
                    li { code { (status) } " " @if let RefOr::T(response) = response { (response.description) } }
                }
            }
        }
    }
}
