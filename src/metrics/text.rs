//! The page in Prometheus' text format, with numbers as Go prints them.
//!
//! The crate's own writer prints the same numbers in another form; tools that compare whole lines
//! know the form that etcd has.

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::fmt::Write as _;

/// What the page's content type is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Writes the families in the order given.
pub fn write(families: &[MetricFamily]) -> String {
    let mut page = String::with_capacity(64 << 10);
    for family in families {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "untyped",
        };
        line(&mut page, format_args!("# HELP {name} {}", escape(family.help(), false)));
        line(&mut page, format_args!("# TYPE {name} {kind}"));
        for metric in family.get_metric() {
            samples(&mut page, name, family.get_field_type(), metric);
        }
    }
    page
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(page, "{text}");
}

fn samples(page: &mut String, name: &str, kind: MetricType, metric: &Metric) {
    let labels = metric.get_label();
    let mut sample = |suffix: &str, extra: Option<(&str, f64)>, value: f64| {
        let labels = label_list(labels, extra);
        line(page, format_args!("{name}{suffix}{labels} {}", number(value)));
    };
    match kind {
        MetricType::COUNTER => sample("", None, metric.get_counter().get_value()),
        MetricType::GAUGE | MetricType::UNTYPED => {
            sample("", None, metric.get_gauge().get_value());
        }
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            for bucket in histogram.get_bucket() {
                let le = Some(("le", bucket.upper_bound()));
                sample("_bucket", le, bucket.cumulative_count() as f64);
            }
            let count = histogram.get_sample_count() as f64;
            sample("_bucket", Some(("le", f64::INFINITY)), count);
            sample("_sum", None, histogram.get_sample_sum());
            sample("_count", None, count);
        }
        MetricType::SUMMARY => {
            let summary = metric.get_summary();
            for quantile in summary.get_quantile() {
                sample("", Some(("quantile", quantile.quantile())), quantile.value());
            }
            sample("_sum", None, summary.sample_sum());
            sample("_count", None, summary.sample_count() as f64);
        }
    }
}

fn label_list(labels: &[LabelPair], extra: Option<(&str, f64)>) -> String {
    let named = labels.iter().map(|pair| (pair.name(), escape(pair.value(), true)));
    let extra = extra.map(|(name, value)| (name, number(value)));
    let pairs: Vec<String> =
        named.chain(extra).map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", pairs.join(",")),
    }
}

fn escape(text: &str, is_quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if is_quoted { text.replace('"', "\\\"") } else { text }
}

/// A number in Go's shortest form: with an exponent below 1e-4 and from 1e6 on.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if value == 0.0 || (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::proto::{Bucket, Gauge, Histogram};

    #[test]
    fn numbers_have_the_form_that_go_gives_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (4.985e-06, "4.985e-06"),
            (20_480.0, "20480"),
            (836_069.0, "836069"),
            (1_500_000.0, "1.5e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1.844_674_407_370_955_2e19, "1.8446744073709552e+19"),
            (0.034_428_999, "0.034428999"),
            (13.1072, "13.1072"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_family_is_written_with_its_labels_in_order() {
        let label = |name: &str, value: &str| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let mut gauge = Gauge::default();
        gauge.set_value(2.0);
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(vec![label("a", "x\"y\\z"), label("b", "1\n2")]);
        let mut family = MetricFamily::default();
        family.set_name("size".to_owned());
        family.set_help("A size,\nin boxes.".to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(vec![metric]);

        let mut bucket = Bucket::default();
        bucket.set_upper_bound(0.5);
        bucket.set_cumulative_count(1);
        let mut histogram = Histogram::default();
        histogram.set_bucket(vec![bucket]);
        histogram.set_sample_count(3);
        histogram.set_sample_sum(9.25);
        let mut metric = Metric::from_label(vec![label("to", "b")]);
        metric.set_histogram(histogram);
        let mut times = MetricFamily::default();
        times.set_name("time".to_owned());
        times.set_field_type(MetricType::HISTOGRAM);
        times.set_metric(vec![metric]);

        let page = r#"# HELP size A size,\nin boxes.
# TYPE size gauge
size{a="x\"y\\z",b="1\n2"} 2
# HELP time 
# TYPE time histogram
time_bucket{to="b",le="0.5"} 1
time_bucket{to="b",le="+Inf"} 3
time_sum{to="b"} 9.25
time_count{to="b"} 3
"#;
        assert_eq!(write(&[family, times]), page);
    }
}
