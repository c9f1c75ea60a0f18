package registry

import (
	"maps"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

const (
	maxComment = 1024 // bytes
	// maxDecisions bounds the people whose decisions a version has.
	maxDecisions = 100
)

// approvalRequest is the body of POST …/approval.
type approvalRequest struct {
	Status  string `json:"status"`
	Comment string `json:"comment"`
}

// approvalAnswer is what people said of a version.
type approvalAnswer struct {
	Status    string           `json:"status"` // "" when nobody asked and nobody said anything
	Requester string           `json:"requester"`
	Comment   string           `json:"comment"` // of the requester
	Decisions []decisionAnswer `json:"decisions"`
	// Refused is the last promotion of the version that did not pass its gate.
	Refused *catalog.Refusal `json:"refused"`
}

type decisionAnswer struct {
	Actor string `json:"actor"`
	catalog.Decision
}

func (s *Service) getApproval(c echo.Context) error {
	v, err := s.versionAsOf(c)
	if err != nil {
		return err
	}
	return answerApproval(c, v)
}

func answerApproval(c echo.Context, v *catalog.Version) error {
	out := approvalAnswer{Status: v.Approval.Status(), Decisions: []decisionAnswer{}, Refused: v.Refused}
	if a := v.Approval; a != nil {
		out.Requester, out.Comment = a.Requester, a.Comment
		for _, person := range slices.Sorted(maps.Keys(a.Decisions)) {
			out.Decisions = append(out.Decisions, decisionAnswer{person, a.Decisions[person]})
		}
	}
	return mlflow.WriteJSON(c.Response(), out)
}

// setApproval asks for approval of a version, or says whether one approves.
func (s *Service) setApproval(c echo.Context) error {
	name, version := versionPath(c)
	var req approvalRequest
	if err := httpapi.DecodeBody(c, &req); err != nil {
		return err
	}
	status, ok := catalog.ApprovalStatus(req.Status)
	if !ok {
		return httpapi.InvalidField("status", "want %s, %s or %s", catalog.ApprovalPending, catalog.ApprovalApproved, catalog.ApprovalRejected)
	}
	if len(req.Comment) > maxComment {
		return httpapi.InvalidField("comment", "want at most %d bytes", maxComment)
	}
	who := actor(c)
	if who == anonymous {
		return apierr.Errorf(apierr.InvalidParameterValue,
			"An approval needs a name: send a user name with HTTP basic authentication, as in http://ada@127.0.0.1:5000")
	}
	out, err := s.do(c, command{
		action: "approval_set", model: name,
		decide: func(st *catalog.State) (*events.Event, error) {
			_, v, err := findVersion(st, name, version)
			if err != nil {
				return nil, err
			}
			if a := v.Approval; a != nil && req.Status != catalog.ApprovalPending {
				if req.Status == catalog.ApprovalApproved && a.Requester == who {
					return nil, httpapi.InvalidField("status", "%s asked for the approval of version %d of '%s', and cannot give it", who, v.Number, name)
				}
				if _, ok := a.Decisions[who]; !ok && len(a.Decisions) >= maxDecisions {
					return nil, httpapi.InvalidField("status", "version %d of '%s' has %d decisions, which is the most", v.Number, name, maxDecisions)
				}
			}
			return &events.Event{Data: &events.Event_ApprovalSet{ApprovalSet: &events.ApprovalSet{
				Name: name, Version: v.Number, Status: status, Actor: who, Comment: req.Comment,
			}}}, nil
		},
	})
	if err != nil {
		return err
	}
	_, v, err := findVersion(out.state, name, version)
	if err != nil {
		return err
	}
	return answerApproval(c, v)
}
