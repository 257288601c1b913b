//! From dashboards/panels.yml to what Grafana reads.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

pub fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panels {
    pub dashboards: Vec<Dashboard>,
    pub elsewhere: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    pub uid: String,
    pub title: String,
    pub variables: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub title: String,
    pub panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    pub title: String,
    #[serde(default)]
    pub description: String,
    #[serde(default = "timeseries")]
    pub kind: String,
    #[serde(default = "short")]
    pub unit: String,
    #[serde(default = "half")]
    pub width: u32,
    /// From this value on it is red.
    pub alarm: Option<u32>,
    #[serde(default)]
    pub exemplars: bool,
    /// Expression, and legend where there is one.
    pub queries: Vec<Vec<String>>,
}

fn timeseries() -> String {
    "timeseries".into()
}

fn short() -> String {
    "short".into()
}

fn half() -> u32 {
    12
}

pub fn panels() -> Panels {
    serde_saphyr::from_str(&fs::read_to_string(dir().join("panels.yml")).unwrap()).unwrap()
}

impl Panels {
    /// Every expression with where it is.
    pub fn expressions(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for dashboard in &self.dashboards {
            for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
                for query in &panel.queries {
                    all.push((format!("{} / {}", dashboard.title, panel.title), query[0].clone()));
                }
            }
        }
        all
    }
}

const SOURCE: &str = "${datasource}";

fn variable(name: &str, label: &str, query: &str, many: bool) -> Value {
    let mut variable = json!({
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": SOURCE},
        "query": {"query": query, "refId": format!("variable-{name}")},
        "refresh": 2,
        "sort": 1,
        "multi": many,
        "includeAll": many,
        "current": if many { json!({"selected": true, "text": ["All"], "value": ["$__all"]}) } else { json!({}) },
        "hide": 0,
    });
    if many {
        variable["allValue"] = json!(".+");
    }
    variable
}

impl Dashboard {
    /// The file that Grafana reads.
    pub fn json(&self) -> Value {
        let mut variables = vec![
            json!({"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {},
                   "hide": 0, "refresh": 1, "regex": "", "multi": false, "includeAll": false, "options": []}),
            variable("job", "Job", "label_values(iommu_trace_build_info, job)", true),
        ];
        for name in &self.variables {
            variables.push(match name.as_str() {
                "instance" => {
                    let query = r#"label_values(iommu_trace_build_info{job=~"$job"}, instance)"#;
                    variable("instance", "Host", query, false)
                }
                "device" => {
                    let query = r#"label_values(iommu_trace_faults_total{job=~"$job", instance="$instance"}, device)"#;
                    variable("device", "Device", query, false)
                }
                other => panic!("there is no variable {other}"),
            });
        }
        json!({
            "uid": self.uid,
            "title": self.title,
            "tags": ["iommu", "iommu-trace"],
            "schemaVersion": 39,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": "now-6h", "to": "now"},
            "refresh": "30s",
            "links": [{"type": "dashboards", "tags": ["iommu-trace"], "title": "IOMMU", "asDropdown": true,
                       "includeVars": true, "keepTime": true, "icon": "external link", "targetBlank": false,
                       "tooltip": "", "url": ""}],
            "annotations": {"list": [{
                "name": "Violations",
                "datasource": {"type": "prometheus", "uid": SOURCE},
                "enable": true,
                "iconColor": "red",
                "expr": r#"sum by (instance, rule) (increase(iommu_trace_violations_total{job=~"$job"}[1m])) > 0"#,
                "titleFormat": "{{instance}}",
                "textFormat": "{{rule}}",
                "step": "60s",
            }]},
            "templating": {"list": variables},
            "panels": self.panels(),
        })
    }

    fn panels(&self) -> Vec<Value> {
        let (mut panels, mut id, mut y) = (Vec::new(), 0, 0);
        for row in &self.rows {
            id += 1;
            panels.push(json!({"type": "row", "id": id, "title": row.title, "collapsed": false, "panels": [],
                               "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}));
            y += 1;
            let (mut x, mut tallest) = (0, 0);
            for panel in &row.panels {
                let height = if panel.kind == "stat" { 4 } else { 8 };
                if x + panel.width > 24 {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                id += 1;
                panels.push(panel.json(id, &json!({"x": x, "y": y, "w": panel.width, "h": height})));
                x += panel.width;
                tallest = tallest.max(height);
            }
            y += tallest;
        }
        panels
    }
}

impl Panel {
    fn json(&self, id: u32, place: &Value) -> Value {
        let targets: Vec<Value> =
            ('A'..='Z').zip(&self.queries).map(|(letter, query)| self.target(letter, query)).collect();
        let green = json!({"color": "green", "value": null});
        let steps = match self.alarm {
            Some(alarm) => json!([green, {"color": "red", "value": alarm}]),
            None => json!([green]),
        };
        let mut panel = json!({
            "id": id,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": {"type": "prometheus", "uid": SOURCE},
            "gridPos": place,
            "targets": targets,
            "fieldConfig": {
                "defaults": {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}},
                "overrides": [],
            },
            "options": {},
        });
        panel["options"] = match self.kind.as_str() {
            "stat" => json!({"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                             "colorMode": if self.alarm.is_some() { "background" } else { "value" },
                             "graphMode": "area", "justifyMode": "auto", "textMode": "auto", "orientation": "auto"}),
            "timeseries" => {
                json!({"legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
                                   "tooltip": {"mode": "multi", "sort": "desc"}})
            }
            "table" => json!({"showHeader": true, "cellHeight": "sm"}),
            "heatmap" => {
                json!({"calculate": false, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                                "yAxis": {"unit": self.unit, "axisPlacement": "left"}, "legend": {"show": true},
                                "tooltip": {"mode": "single", "yHistogram": false},
                                "rowsFrame": {"layout": "auto"}, "exemplars": {"color": "rgba(255,0,255,0.7)"}})
            }
            other => panic!("there is no kind of panel {other}"),
        };
        if self.kind == "table" {
            panel["transformations"] = json!([
                {"id": "organize", "options": {"excludeByName": {"Time": true}, "indexByName": {}, "renameByName": {}}}
            ]);
        }
        panel
    }

    fn target(&self, letter: char, query: &[String]) -> Value {
        let instant = matches!(self.kind.as_str(), "stat" | "table");
        json!({
            "refId": letter.to_string(),
            "datasource": {"type": "prometheus", "uid": SOURCE},
            "editorMode": "code",
            "expr": query[0],
            "legendFormat": query.get(1).map_or("__auto", String::as_str),
            "instant": instant,
            "range": !instant,
            "exemplar": self.exemplars,
            "format": match self.kind.as_str() {
                "table" => "table",
                "heatmap" => "heatmap",
                _ => "time_series",
            },
        })
    }
}
