//! The text of statements over many rows or a list, whose placeholders each database wants otherwise. Pure.

use std::fmt::Write as _;

/// What is left of the head of a list that Postgres takes as an array.
pub(super) fn as_array(head: &str) -> Option<&str> {
    head.strip_suffix(" in ")
}

/// What is left of the head of a statement that inserts rows, which Postgres takes as an array for each column. Not so where
/// rows are joined with: how many there are is what the plan depends on.
pub(super) fn as_arrays(head: &str) -> Option<&str> {
    head.strip_suffix("values ").filter(|head| head.starts_with("insert into "))
}

/// SQLite looks a named placeholder up among all those before it, which takes for ever with thousands: there they stay
/// nameless.
pub(super) fn rows(head: &str, width: usize, count: usize, tail: &str, postgres: bool) -> String {
    if let Some(head) = as_arrays(head).filter(|_| postgres) {
        let columns: Vec<String> = (1..=width).map(|column| format!("${column}")).collect();
        // Without a condition, `on conflict` would be read as one of a join.
        return format!("{head}select * from unnest({}) where true{tail}", columns.join(","));
    }
    let mut text = String::with_capacity(head.len() + tail.len() + count * (width * 7 + 3));
    text.push_str(head);
    let mut number = 0;
    for row in 0..count {
        text.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..width {
            number += 1;
            text.push_str(if column == 0 { "" } else { "," });
            if postgres {
                // Writing to a String cannot fail.
                let _ = write!(text, "${number}");
            } else {
                text.push('?');
            }
        }
        text.push(')');
    }
    text.push_str(tail);
    text
}

/// Nameless on SQLite for the same reason, where what stands before the list can be so too: each once, in order.
pub(super) fn list(head: &str, before: usize, count: usize, tail: &str, postgres: bool) -> String {
    if let Some(head) = as_array(head).filter(|_| postgres) {
        return format!("{head} = any(${}){tail}", before + 1);
    }
    let mut text = String::with_capacity(head.len() + tail.len() + count * 6 + 2);
    let named = head.matches('$').count();
    let in_order = (1..=before).try_fold(0, |from, nth| {
        let name = format!("${nth}");
        head.get(from..)?.find(&name).map(|at| from + at + name.len())
    });
    let nameless = !postgres && named == before && in_order.is_some() && !tail.contains('$');
    if nameless {
        let last = (1..=before).fold(head, |rest, nth| {
            let (text_before, rest) = rest.split_once(&format!("${nth}")).unwrap_or((rest, ""));
            text.push_str(text_before);
            text.push('?');
            rest
        });
        text.push_str(last);
    } else {
        text.push_str(head);
    }
    text.push('(');
    for nth in 0..count {
        text.push_str(if nth == 0 { "" } else { "," });
        if nameless {
            text.push('?');
        } else {
            let _ = write!(text, "${}", before + nth + 1);
        }
    }
    text.push(')');
    text.push_str(tail);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_nameless_on_sqlite_where_all_before_it_can_be() {
        assert_eq!(list("a in ", 0, 3, " b", false), "a in (?,?,?) b");
        assert_eq!(list("a in ", 0, 3, " b", true), "a = any($1) b");
        assert_eq!(list("v = $1 and a in ", 1, 2, "", false), "v = ? and a in (?,?)");
        assert_eq!(list("v = $1 and a in ", 1, 2, "", true), "v = $1 and a = any($2)");
        assert_eq!(list("a <> all ", 0, 2, "", true), "a <> all ($1,$2)");
        assert_eq!(list("v = $1 and w = $1 and a in ", 1, 1, "", false), "v = $1 and w = $1 and a in ($2)");
        assert_eq!(list("a in ", 1, 1, " or v = $1", false), "a in ($2) or v = $1");
        assert_eq!(list("v = $2 and w = $1 and a in ", 2, 1, "", false), "v = $2 and w = $1 and a in ($3)");
    }

    #[test]
    fn rows_are_arrays_where_postgres_inserts_them() {
        let insert = "insert into t (a, b) values ";
        assert_eq!(
            rows(insert, 2, 2, " on conflict do nothing", false),
            format!("{insert}(?,?),(?,?) on conflict do nothing")
        );
        let arrays = "insert into t (a, b) select * from unnest($1,$2) where true on conflict do nothing";
        assert_eq!(rows(insert, 2, 2, " on conflict do nothing", true), arrays);
        assert_eq!(rows("with v (a) as (values ", 1, 2, ") b", true), "with v (a) as (values ($1),($2)) b");
    }
}
