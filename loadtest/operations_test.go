package main

import (
	"testing"
	"time"
)

// Two servers agree on an answer whatever ids they gave the runs, and whatever
// order a run's metrics have; the order of the runs and every value count.
func TestAnswersAgree(t *testing.T) {
	runs := func(body string) answer {
		t.Helper()
		items, err := readRuns(nil, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return sum(items)
	}
	const (
		a = `{"info": {"run_id": "1", "run_name": "a"}, "data": {"metrics": [{"key": "x", "value": 1}, {"key": "y", "value": 2}], "params": [{"key": "p", "value": "v"}]}}`
		b = `{"info": {"run_id": "2", "run_name": "b"}, "data": {}}`
	)
	first := runs(`{"runs": [` + a + `, ` + b + `]}`)
	for _, c := range []struct {
		name, body string
		same       bool
	}{
		{"other ids and another order of metrics", `{"runs": [
			{"info": {"run_id": "3", "run_name": "a"}, "data": {"metrics": [{"key": "y", "value": 2}, {"key": "x", "value": 1}], "params": [{"key": "p", "value": "v"}]}},
			{"info": {"run_id": "4", "run_name": "b"}, "data": {}}]}`, true},
		{"another order of runs", `{"runs": [` + b + `, ` + a + `]}`, false},
		{"a run less", `{"runs": [` + a + `]}`, false},
		{"another value", `{"runs": [
			{"info": {"run_name": "a"}, "data": {"metrics": [{"key": "x", "value": 1}, {"key": "y", "value": 3}], "params": [{"key": "p", "value": "v"}]}},` + b + `]}`, false},
	} {
		err := agree(map[int]answer{0: first}, map[int]answer{0: runs(c.body)}, c.name)
		if (err == nil) != c.same {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := readRuns(nil, []byte(`{}`)); err == nil {
		t.Error("an answer without runs is none to compare")
	}
}

func TestPointsAgree(t *testing.T) {
	points := func(s *side, body string) answer {
		t.Helper()
		items, err := readPoints(s, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return sum(items)
	}
	ours := points(&side{series: []string{"a", "b"}}, `{"metrics": [{"run_id": "a", "step": 1, "value": 2}, {"run_id": "b", "step": 3, "value": 4}]}`)
	theirs := points(&side{series: []string{"z", "y"}}, `{"metrics": [{"run_id": "y", "step": 3, "value": 4}, {"run_id": "z", "step": 1, "value": 2}]}`)
	if ours != theirs {
		t.Error("the same points of the same runs differ")
	}
	if swapped := points(&side{series: []string{"y", "z"}}, `{"metrics": [{"run_id": "y", "step": 3, "value": 4}, {"run_id": "z", "step": 1, "value": 2}]}`); swapped == ours {
		t.Error("the points of two runs, exchanged, are the same")
	}
}

func TestMLflowConfig(t *testing.T) {
	good := mlflowConfig{workers: 4, rounds: 1, runs: pageRuns, duration: time.Second, timeout: time.Second}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*mlflowConfig){
		"--workers":  func(c *mlflowConfig) { c.workers = 0 },
		"--rounds":   func(c *mlflowConfig) { c.rounds = 0 },
		"--runs":     func(c *mlflowConfig) { c.runs = pageRuns - 1 },
		"--duration": func(c *mlflowConfig) { c.duration = 0 },
		"--timeout":  func(c *mlflowConfig) { c.timeout = -1 },
	} {
		c := good
		change(&c)
		if c.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
