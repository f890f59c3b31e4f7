//! HTTP requests, signed as Standard Webhooks.
