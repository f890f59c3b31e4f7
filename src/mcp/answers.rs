//! Answers within a budget. Pure.

use serde_json::{Map, Value, json};

/// A list that grows until the budget of its answer is used up.
pub(super) struct BudgetedList {
    left: usize,
    items: Vec<Value>,
    is_cut: bool,
}

impl BudgetedList {
    /// `budget` in bytes, of which the rest of the answer takes `used`.
    pub(super) fn new(budget: usize, used: usize) -> BudgetedList {
        BudgetedList { left: budget.saturating_sub(used), items: Vec::new(), is_cut: false }
    }

    /// Adds an item; `false` if it does not fit. The first one is shortened rather than left out.
    pub(super) fn push(&mut self, item: Value) -> bool {
        let size = item.to_string().len() + 1;
        if size <= self.left {
            self.left -= size;
            self.items.push(item);
            return true;
        }
        self.is_cut = true;
        if self.items.is_empty() {
            self.items.push(shorten(item, self.left));
            self.left = 0;
        }
        false
    }

    /// How many items it has.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn into_items(self) -> Vec<Value> {
        self.items
    }
}

/// A value with its texts cut to about this many bytes in all.
pub(super) fn shorten(value: Value, bytes: usize) -> Value {
    match value {
        Value::String(text) if text.len() > bytes => {
            Value::String(format!("{}… (cut)", &text[..text.floor_char_boundary(bytes)]))
        }
        Value::Object(fields) => {
            let share = bytes / fields.len().max(1);
            // Ids stay whole: they lead to the rest.
            let cut = |(name, value): (String, Value)| {
                let value = if name.starts_with("untrusted_") { shorten(value, share.max(bytes / 2)) } else { value };
                (name, value)
            };
            Value::Object(fields.into_iter().map(cut).collect::<Map<String, Value>>())
        }
        Value::Array(items) => {
            let share = bytes / items.len().max(1);
            Value::Array(items.into_iter().map(|item| shorten(item, share)).collect())
        }
        other => other,
    }
}

/// Marks an answer as cut, with how to get the rest.
pub(super) fn mark_cut(answer: &mut Value, note: &str) {
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("cut".to_owned(), json!(true));
        fields.insert("note".to_owned(), json!(note));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_stays_within_its_budget_and_says_when_it_was_cut(sizes in proptest::collection::vec(0..400_usize, 0..20), budget in 200..3_000_usize) {
            let mut list = BudgetedList::new(budget, 0);
            let fitted = sizes.iter().take_while(|size| list.push(json!({ "untrusted_text": "ä".repeat(**size) }))).count();
            prop_assert_eq!(list.is_cut(), fitted < sizes.len());
            let text = Value::Array(list.into_items()).to_string();
            prop_assert!(text.len() <= budget + 100, "{} of {budget}", text.len());
        }
    }
}
