package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A long series is drawn from its blocks, exactly: with a point that came late a
// moment ago, and after the program was killed.
func TestLongSeriesIsDrawnFromBlocks(t *testing.T) {
	const points, columns, block = 140_000, 100, 128
	dir := t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	experiment, err := c.createExperiment(t.Context(), "long")
	if err != nil {
		t.Fatal(err)
	}
	run, err := c.createRun(t.Context(), experiment, "run", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	value := func(step int) int {
		if step == 77_777 {
			return 1_000_000
		}
		return step * 7919 % 10_007
	}
	for from := 0; from < points; from += 1000 {
		var batch []metric
		for step := from; step < from+1000; step++ {
			batch = append(batch, metric{Key: "loss", Value: number(value(step)), Timestamp: int64(step), Step: int64(step)})
		}
		if err := c.logBatch(t.Context(), run, batch, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	body := fmt.Sprintf(`{"run_ids": [%q], "metric_keys": ["loss"], "columns": %d}`, run, columns)
	draw := func() (s drawnSeries) {
		t.Helper()
		if err := c.draw(t.Context(), body, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	// Until then it is drawn from its points, on columns as narrow as they can be.
	eventually(t, time.Minute, func() string { return "the series is not rolled up" }, func(context.Context) bool {
		return draw().Frame.Width%block == 0
	})
	late := map[int]int{}
	check := func(when string) {
		t.Helper()
		s := draw()
		if len(s.Series) != 1 || s.Frame.Width != 1408 || s.Frame.From != 0 {
			t.Fatalf("%s: %d series, %+v", when, len(s.Series), s.Frame)
		}
		got := s.Series[0]
		if got.Points != points+len(late) || len(got.Column) != (points+1407)/1408 {
			t.Fatalf("%s: %d points in %d columns", when, got.Points, len(got.Column))
		}
		for i, column := range got.Column {
			first, last := column*1408, min((column+1)*1408, points)-1
			least, most := value(first), value(first)
			for step := first; step <= last; step++ {
				least, most = min(least, value(step)), max(most, value(step))
				if v, ok := late[step]; ok {
					most = max(most, v)
				}
			}
			if got.First[i] != value(first) || got.Last[i] != value(last) || got.Min[i] != least || got.Max[i] != most {
				t.Fatalf("%s: column %d has %d, %d, %d and %d, want %d, %d, %d and %d", when, column,
					got.First[i], got.Last[i], got.Min[i], got.Max[i], value(first), value(last), least, most)
			}
		}
	}
	check("rolled up")
	for _, step := range []int{5, 99_999} {
		late[step] = 2_000_000 + step
		if err := c.logBatch(t.Context(), run, []metric{{Key: "loss", Value: number(late[step]), Timestamp: points, Step: int64(step)}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("with a late point at ", step))
	}
	// The connections that were kept are to an engine that is gone.
	if err := syscall.Kill(p.engine(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, startTimeout, func() string { return "series do not come back" }, func(ctx context.Context) bool {
		var s drawnSeries
		err := c.draw(ctx, body, &s)
		if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "503") {
			t.Fatal(err)
		}
		return err == nil
	})
	check("after the engine was killed")
	p.kill(t)
	p = up(t, dir)
	c = p.client(t)
	check("after a kill")
}

type drawnSeries struct {
	Series []struct {
		Points                int
		Column                []int
		First, Last, Min, Max []int
	}
	Frame struct {
		From  int
		Width int `json:"column_width"`
	}
}

// draw reads the answer to a request for series.
func (c *client) draw(ctx context.Context, body string, into *drawnSeries) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/api/v1/series", strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return json.Unmarshal(text, into)
}
